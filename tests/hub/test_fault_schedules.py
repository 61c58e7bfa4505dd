"""Seeded schedules of faults: right bytes or a HubError, one commit, nothing outside the cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from fault_schedules import Outcome, play

from hub_server import TOKEN, HubServer
from offramp.hub import client, upload

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ALL, SOME = 500, 60


@pytest.fixture
def fast_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub, and time that passes twenty times as fast."""
    from huggingface_hub.utils import _http

    def soon(seconds: float) -> None:
        time.sleep(seconds / 20)

    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
        monkeypatch.setattr(upload, "SILENCE", 0.2)
        monkeypatch.setattr(client, "pause", soon)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
        yield server
        huggingface_hub.close_session()


def played(seeds: range, hub: HubServer, root: Path) -> list[Outcome]:
    outcomes = []
    for seed in seeds:
        place = root / str(seed)
        place.mkdir()
        try:
            outcomes.append(play(seed, hub, place))
        except Exception as error:
            raise AssertionError(f"schedule {seed}: {error!r}") from error
    kinds = Counter((one.kind, "failed" if one.failed else "done") for one in outcomes)
    print(f"{len(outcomes)} schedules, {sum(one.faults for one in outcomes)} faults: {kinds}")
    return outcomes


def test_some_schedules(fast_hub: HubServer, tmp_path: Path) -> None:
    outcomes = played(range(SOME), fast_hub, tmp_path)
    assert {(one.kind, one.failed is None) for one in outcomes} >= {
        (kind, done) for kind in ("download", "upload") for done in (True, False)
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_schedules(fast_hub: HubServer, tmp_path: Path) -> None:
    outcomes = played(range(ALL), fast_hub, tmp_path)
    assert len(outcomes) == ALL
    assert sum(one.faults for one in outcomes) > ALL
