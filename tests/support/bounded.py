"""A process in which files that may do anything are decoded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

SECONDS = (
    60.0  # an image may take, as in `ferstore.image.probe`; a busy machine takes five times as long as an idle one
)
PEAK = 2 << 30  # bytes of resident memory: some more than the bound that `ferstore.image.decode` states
ROOT = Path(__file__).parents[2]


class Bounded:
    """A process that decodes, started again when it dies; what it prints is kept."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> dict[str, object] | str:
        """What the child says of a file, or how it ended."""
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        watchdog = threading.Timer(SECONDS, child.kill)
        watchdog.start()
        try:
            child.stdin.write(len(data).to_bytes(8, "little") + data)
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            watchdog.cancel()
        if answer:
            return dict(json.loads(answer))
        code = child.wait()
        self.close()
        return f"took longer than {SECONDS:.0f} s" if code == -9 else f"ended with {code}"

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _started(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests/support")))
        return subprocess.Popen(
            [sys.executable, "-m", "decode_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )

    def printed(self) -> str:
        """All it wrote to standard error."""
        self._log.flush()
        return Path(self._log.name).read_text("utf-8", "replace")
