"""The comparison: who is in the table, who is not and why, and who answers otherwise."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model
from torch import Tensor

from offramp.bench.apart import EngineFailedError
from offramp.bench.comparing import EXITS, PLAIN, Peer, compare
from offramp.bench.engine import Engine, Run, Setting
from offramp.errors import ConfigError, InputError, MissingBackendError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Entropy
from offramp.runner.rows import Row
from offramp.runner.run import Runner
from offramp.runner.threads import cpu_threads

MODEL = tiny_model(2)  # with exits
ROWS = random_rows(12)


class Fake:
    """An engine that waits, and answers as offramp's plain model does, moved by `off`."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off
        self.settings: list[Setting] = []

    def __call__(self, directory: Path, setting: Setting) -> Engine:
        self.settings.append(setting)
        return self

    def prepare(self, rows: Sequence[Row]) -> Run:
        logits_RC = Runner(MODEL, exits=False).run(ROWS).logits_RC + self.off

        def run() -> Tensor:
            time.sleep(0.05)
            return logits_RC

        return run


def test_the_table() -> None:
    def absent(directory: Path, setting: Setting) -> Engine:
        raise MissingBackendError("It needs a package. Install it: pip install package")

    def broken(directory: Path, setting: Setting) -> Engine:
        raise ZeroDivisionError("first line\nsecond line")

    told: list[tuple[str, int, int]] = []
    fake = Fake()
    found = compare(
        "nowhere",
        MODEL,
        ROWS,
        rounds=3,
        batch_size=5,
        threads=1,
        peers={"fake": Peer(fake), "absent": Peer(absent), "broken": Peer(broken)},
        progress=lambda *step: told.append(step),
    )
    assert fake.settings == [Setting(batch_size=5, threads=1)]
    assert [line.engine for line in found.lines] == [PLAIN, EXITS, "fake"]
    assert found.absent == {
        "absent": "It needs a package. Install it: pip install package",
        "broken": "It failed: ZeroDivisionError: first line",
    }
    line = found.line("fake")
    assert len(line.seconds) == 3
    assert min(line.seconds) >= 0.05
    assert line.rows_per_second == pytest.approx(12 / sorted(line.seconds)[1])
    ratios = sorted(s / f for f, s in zip(found.line(PLAIN).seconds, line.seconds, strict=True))
    assert line.slower[PLAIN].median == pytest.approx(ratios[1])
    assert (line.difference, line.agreement, line.differs, line.mean_layers) == (0, 1, False, None)
    assert line.slower.keys() == {PLAIN, EXITS}
    assert found.line(PLAIN).slower.keys() == {EXITS}
    assert found.line(PLAIN).mean_layers == MODEL.config.num_hidden_layers
    assert (found.rows, found.tokens) == (12, sum(len(row.ids) for row in ROWS))
    assert json.loads(json.dumps(found.to_dict()))["lines"][2]["engine"] == "fake"
    assert told[:3] == [("open", 1, 3), ("open", 2, 3), ("open", 3, 3)]
    assert told[-1] == ("time", 12, 12)


def test_a_peer_that_fails_while_it_is_timed_is_absent() -> None:
    class Failing(Fake):
        def prepare(self, rows: Sequence[Row]) -> Run:
            runs, run = iter(range(3)), super().prepare(rows)

            def sometimes() -> Tensor:
                if next(runs, None) is None:
                    raise EngineFailedError("Its process ended.")
                return run()

            return sometimes

    peers = {"fails": Peer(Failing()), "fake": Peer(Fake())}
    found = compare("nowhere", MODEL, ROWS, rounds=3, peers=peers)
    assert found.absent == {"fails": "Its process ended."}
    assert [line.engine for line in found.lines] == [PLAIN, EXITS, "fake"]
    assert all(len(line.seconds) == 3 for line in found.lines)


@pytest.mark.parametrize(
    ("off", "exact", "differs"),
    [(0.5, True, True), (math.nan, True, True), (0.5, False, False), (1e-5, True, False)],
)
def test_a_peer_that_answers_otherwise_is_marked(off: float, exact: bool, differs: bool) -> None:
    peers = {"fake": Peer(Fake(off), exact)}
    line = compare("nowhere", MODEL, ROWS, rounds=1, peers=peers).line("fake")
    assert line.differs is differs
    assert line.difference == pytest.approx(off, nan_ok=True, abs=1e-6)


def test_its_own_exits_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits_of(MODEL), "criterion", Entropy(10.0))
    found = compare("nowhere", MODEL, ROWS, rounds=1, peers={})
    assert found.line(EXITS).mean_layers == exits_of(MODEL).depths[0]
    assert not found.line(EXITS).differs


def test_threads_are_put_back() -> None:
    with cpu_threads(1):
        seen: list[int] = []

        def opener(directory: Path, setting: Setting) -> Engine:
            seen.extend((setting.threads, torch.get_num_threads()))
            return Fake()

        compare("nowhere", MODEL, ROWS, rounds=1, threads=2, peers={"fake": Peer(opener)})
        assert seen == [2, 2]
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["rounds", "batch_size", "threads"])
def test_numbers_are_at_least_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0"):
        compare("nowhere", MODEL, ROWS, peers={}, **{name: 0})


def test_there_must_be_rows() -> None:
    with pytest.raises(InputError, match="no rows"):
        compare("nowhere", MODEL, [], peers={})
