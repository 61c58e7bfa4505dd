"""One saver at a time, whatever becomes of the others."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import offramp
from offramp.checkpoints.directory import staged
from offramp.storage.files import write_file
from offramp.storage.into import write_into
from offramp.storage.locks import alone, no_saver

HOLDER = """
import sys, time
from pathlib import Path
from offramp.checkpoints.directory import staged
with staged(sys.argv[1]) as fresh:
    (fresh / "half").write_text("1")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_threads_wait_for_one_another(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(30):
            with alone(tmp_path / "model") as locked:
                assert locked
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


def test_readers_share_and_the_last_takes_the_file_away(tmp_path: Path) -> None:
    with no_saver(tmp_path / "model"):
        with no_saver(tmp_path / "model"):
            assert (tmp_path / ".model.lock").exists()
        saver = threading.Thread(target=lambda: _save(tmp_path / "model"))
        saver.start()
        saver.join(0.2)
        assert saver.is_alive(), "it waits"
    saver.join(20)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def _save(target: Path) -> None:
    with staged(target) as fresh:
        (fresh / "a").write_text("1")


def test_a_living_saver_keeps_what_it_has_and_a_dead_one_does_not(tmp_path: Path) -> None:
    target = tmp_path / "model"
    command = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        saver = threading.Thread(target=lambda: _save(target))
        saver.start()
        saver.join(0.3)
        assert saver.is_alive(), "it waits"
        (left,) = tmp_path.glob(".model.*.tmp")
        assert (left / "half").exists(), "and takes nothing away"
        holder.send_signal(signal.SIGKILL)
        saver.join(20)
        assert not saver.is_alive()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (target / "half").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It is saved to all the same, and what may be another's is left alone."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    other = tmp_path / ".model.0123456789ab.tmp"
    other.mkdir()
    _save(tmp_path / "model")
    write_file(tmp_path / "page.html", "<p>")
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert other.exists()


def test_a_directory_that_may_not_be_written_to_is_read(tmp_path: Path) -> None:
    with no_saver(tmp_path / "absent" / "model"):
        pass
    assert list(tmp_path.iterdir()) == []


# Single files


def test_what_a_kill_left_of_a_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".page.html.0123456789ab.tmp").write_text("half")
    (tmp_path / ".other.html.0123456789ab.tmp").write_text("another's")
    write_file(tmp_path / "page.html", "ä")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "ä"
    assert {path.name for path in tmp_path.iterdir()} == {
        "page.html",
        ".other.html.0123456789ab.tmp",
    }


def test_a_file_is_there_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "page.html", "old")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: write_file(tmp_path / "page.html", "new"),
        lambda: write_into(tmp_path, {"page.html": b"new"}),
    ):
        with pytest.raises(offramp.SaveError, match="No space left"):
            write()
        assert (tmp_path / "page.html").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
