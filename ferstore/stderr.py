"""Keeping the start-up remarks of C++ libraries off standard error, and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# absl's informational lines (`I0000 00:00:1795476572.781812 3686 port.cc:153] ...`), its preface to them, and the error
# that a machine without a GPU is said to be.
_REMARK = re.compile(
    rb"I\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] |WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|E\d{4} .* failed call to cuInit"
)


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Hold back what the process writes to file descriptor 2, then write it there without such remarks.

    TensorFlow 2.21 logs them as it is imported and as it looks for GPUs, whatever ``TF_CPP_MIN_LOG_LEVEL`` says.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError):  # no standard error, as in a daemon
        yield
        return
    with tempfile.TemporaryFile() as held, open(kept, "wb") as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            stderr.writelines(line for line in held if not _REMARK.match(line))
