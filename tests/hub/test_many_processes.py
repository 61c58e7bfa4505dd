"""Processes that ask for the same model at the same time: one fetches, the others wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_repository import SHARDED, contents, put, wanted

from hub_server import HubServer

ONE = """
import sys
sys.path.insert(0, sys.argv[1])
from model_repository import NAME, contents, select, wanted
from offramp.hub import download
from offramp.hub.names import Request, Source, find
import filelock, huggingface_hub.utils
"""
ASK = ONE + "print(find(Source(NAME), Request(), select))\n"
# Forks, as importing the client 32 times would take most of the time.
MANY = (
    ONE
    + """
import os, traceback
children = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(contents(find(Source(NAME), Request(), select)) != wanted())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""
)


def command(program: str, *more: str) -> list[str]:
    return [sys.executable, "-c", program, str(Path(__file__).parent), *more]


def test_32_processes_fetch_each_file_once(hub: HubServer) -> None:
    put(hub)
    done = subprocess.run(command(MANY, "32"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in wanted():
        assert len(hub.asked(f"GET .*/resolve/.*/{name}$")) == 1
    assert len(hub.asked("GET /cdn/")) == 1
    assert len(hub.asked("/revision/main")) == 32


def test_the_others_go_on_when_the_one_that_fetches_is_killed(
    hub: HubServer, tmp_path: Path
) -> None:
    put(hub)
    hub.fault("GET /cdn/", "stall", seconds=60)
    first = subprocess.Popen(command(ASK), stdout=subprocess.DEVNULL)
    partial = list[Path]()
    while not (partial and partial[0].stat().st_size):  # it has half, and the lock
        time.sleep(0.01)
        partial = list((tmp_path / "cache").rglob("*.incomplete"))
    others = subprocess.Popen(command(MANY, "31"), stderr=subprocess.PIPE, text=True)
    while len(hub.asked("/revision/main")) < 32:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    _, said = others.communicate(timeout=120)
    assert others.returncode == 0, said
    asked = [one.headers.get("range") for one in hub.asked("GET /cdn/")]
    assert len(asked) == 2 and asked[0] is None, "that of the one that was killed, and one more"
    assert asked[1] is not None, "which went on from where the first one was"
    for name in ("config.json", "vocab.txt"):
        assert len(hub.asked(f"GET .*/resolve/.*/{name}$")) == 1


def test_a_shard_is_fetched_once_by_processes_that_began_apart(hub: HubServer) -> None:
    put(hub, SHARDED)
    running = [
        subprocess.Popen(command(ASK), stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(3)
    ]
    found = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(found) == 1 and contents(Path(*found)) == SHARDED
    assert len(hub.asked("GET /cdn/")) == 3
