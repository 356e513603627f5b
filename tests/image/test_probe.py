"""Decoding in a child process: its death, its silence and its last words cost one image, never the ingest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import picture

from ferstore.errors import DecodeError
from ferstore.image import probe
from ferstore.image.decode import decode
from ferstore.image.phash import perceptual_hash
from ferstore.image.probe import Probe, Prober

ANSWER = b'{"width": 1, "height": 2, "mode": "L", "hash": "0"}\n'
READ = "import sys, struct\nr = sys.stdin.buffer\ndef take(): return r.read(struct.unpack('<Q', r.read(8))[0])\n"


@pytest.fixture
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def child_runs(monkeypatch: pytest.MonkeyPatch, *programs: str) -> list[int]:
    """Run these programs, one after another, in the place of the decoding child; returns the list of their starts."""
    started: list[int] = []
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        program = programs[min(len(started), len(programs) - 1)]
        started.append(len(started))
        return real([sys.executable, "-c", READ + program], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return started


def kill_child(prober: Prober) -> None:
    child = prober._started()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_a_child_says_what_decoding_here_says(prober: Prober) -> None:
    data = picture(3, size=40)
    here = decode(data, at_least=299)
    assert prober.probe(data) == Probe(here.width, here.height, here.mode, perceptual_hash(here.image))


def test_one_child_serves_many_images_good_and_bad(prober: Prober) -> None:
    assert prober.probe(picture(1)).width == 16
    first = prober._started().pid
    for broken in (b"", b"no image", picture(1)[:50]):
        with pytest.raises(DecodeError):
            prober.probe(broken)
    assert prober.probe(picture(2)).width == 16
    assert prober._started().pid == first


def test_a_refusal_of_the_child_is_the_refusal_of_the_decoder(prober: Prober) -> None:
    with pytest.raises(DecodeError, match="not an image of a known format; allowed: PNG"):
        prober.probe(b"no image")


@pytest.mark.parametrize("size", [4, 1500], ids=["small", "larger than a pipe"])
def test_a_child_killed_between_two_images_is_started_again(prober: Prober, size: int) -> None:
    prober.probe(picture(1))
    kill_child(prober)
    assert prober.probe(picture(2, size)).width == size


def test_an_image_that_kills_its_child_twice_is_refused_and_the_next_is_read(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        started = child_runs(patched, "take(); import os; os._exit(7)")
        with pytest.raises(DecodeError, match=r"the process decoding it died twice \(exit code 7\)"):
            prober.probe(picture(1))
        assert len(started) == 2
    assert prober.probe(picture(1)).width == 16


def test_an_image_whose_child_died_once_is_read_by_the_second(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    child_runs(monkeypatch, "sys.exit(1)", f"take(); sys.stdout.buffer.write({ANSWER!r})")
    assert prober.probe(picture(1)) == Probe(1, 2, "L", "0")


def test_half_an_answer_is_a_death(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    child_runs(monkeypatch, f"take(); sys.stdout.buffer.write({ANSWER[:20]!r})")
    with pytest.raises(DecodeError, match="died twice"):
        prober.probe(picture(1))


def test_a_child_that_hangs_is_killed(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 0.2)
    child_runs(monkeypatch, "take(); import time; time.sleep(600)")
    with pytest.raises(DecodeError, match="took longer than"):
        prober.probe(picture(1))


def test_what_the_libraries_print_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child_runs(monkeypatch, f"take(); sys.stderr.write('libpng warning'); sys.stdout.buffer.write({ANSWER!r})")
    with (tmp_path / "log").open("wb") as log:
        prober = Prober(log)
        prober.probe(picture(1))
        assert prober._child is not None
        prober._child.wait()
        prober.close()
    assert (tmp_path / "log").read_text() == "libpng warning"
    assert capfd.readouterr() == ("", "")


def test_a_child_ends_with_its_prober(prober: Prober) -> None:
    child = prober._started()
    prober.close()
    assert child.returncode == -signal.SIGKILL
    prober.close()
