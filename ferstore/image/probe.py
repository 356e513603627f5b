"""What an image is, found out in a process that may die: ``python -m ferstore.image.probe`` answers one at a time.

A decoder is C code fed by strangers. In a child process a crash, a hang or a runaway allocation costs that image, and
what the libraries print goes to a log instead of the terminal.

Protocol, both ways over pipes: the parent writes the length (8 bytes, little-endian) and the bytes of one file; the
child answers with one line of JSON, either ``{"width", "height", "mode", "hash"}`` or ``{"error"}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO

from ferstore.errors import DecodeError

TIMEOUT = 60.0  # seconds an image may take; 100 million pixels take about five
MEMORY = 4 << 30  # bytes of address space of the child
_HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Probe:
    """Size as displayed, Pillow's mode of the file, and the 64-bit perceptual hash as hex."""

    width: int
    height: int
    mode: str
    perceptual_hash: str


class Prober:
    """One child process, started again when it dies. For one thread at a time.

    Args:
        log: where the child's stderr goes.
    """

    def __init__(self, log: IO[bytes] | int = subprocess.DEVNULL) -> None:
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def probe(self, data: bytes) -> Probe:
        """Decode one file's bytes.

        Raises:
            DecodeError: it is no image ferstore reads, or the process decoding it died or hung twice.
        """
        problem = ""
        for _ in range(2):  # the first death may have been somebody else's doing
            child = self._started()
            hung = threading.Event()
            watchdog = threading.Timer(TIMEOUT, _kill, (child, hung))
            watchdog.start()
            try:
                answer = _ask(child, data)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            finally:
                watchdog.cancel()
            if answer.endswith(b"\n"):
                return _read_answer(answer)
            code = child.wait()
            problem = f"took longer than {TIMEOUT:.0f} s" if hung.is_set() else f"exit code {code}"
            self.close()
        raise DecodeError(f"the process decoding it died twice ({problem})")

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # what a dead child did not take
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            # The child finds the project as this process does, installed or in a working folder.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
            self._child = subprocess.Popen(
                [sys.executable, "-m", "ferstore.image.probe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        return self._child


def _kill(child: subprocess.Popen[bytes], hung: threading.Event) -> None:
    hung.set()
    child.kill()


def _ask(child: subprocess.Popen[bytes], data: bytes) -> bytes:
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018  both are pipes
    child.stdin.write(_HEADER.pack(len(data)))
    child.stdin.write(data)
    child.stdin.flush()
    return child.stdout.readline()


def _read_answer(answer: bytes) -> Probe:
    said = json.loads(answer)
    if "error" in said:
        raise DecodeError(said["error"])
    return Probe(said["width"], said["height"], said["mode"], said["hash"])


def _serve() -> None:
    """Answer until the parent closes the pipe."""
    import resource

    from ferstore.image.decode import decode
    from ferstore.image.phash import perceptual_hash

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(_HEADER.size):
        data = requests.read(_HEADER.unpack(header)[0])
        try:
            found = decode(data, at_least=299)  # as extract will
            answer = {
                "width": found.width,
                "height": found.height,
                "mode": found.mode,
                "hash": perceptual_hash(found.image),
            }
        except DecodeError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
