"""Two processes that train one model give what one process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import write_body
from safetensors.torch import load_file
from task_models import write_model
from torch import distributed, nn

import offramp
from offramp.models.bert import BertModel
from offramp.training.group import _Together, training_group

HERE = Path(__file__).parent
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUICK = {"batch_size": 8, "learning_rate": 1e-3, "ramp_learning_rate": 2e-3, "patience": 99}


def entry(name: str, body: str = "still", **changes: Any) -> dict[str, Any]:
    values = {"name": name, "task": "classify", "body": body, "stop": None, "resume": False}
    options = {**QUICK, "epochs": 2, **changes.pop("options", {})}
    return {**values, **changes, "options": options}


RUNS = [
    # Steps of 24 rows, the last of an epoch of 5; 12 and 12, 3 and 2.
    entry("joint", options={"accumulate": 3, "class_weights": "balanced"}),
    entry("alternating", options={"schedule": "alternating", "certainty": True}),
    entry("two-stage", options={"schedule": "two-stage", "epochs": 2}),
    entry("tag", task="tag", body="words", options={"epochs": 1}),
    entry("tag-stages", task="tag", body="words", options={"schedule": "two-stage", "epochs": 2}),
]
CROSSING = entry("crossing", options={"evaluations_per_epoch": 2})
"""Stopped as two processes, and gone on with as one."""
DROPPING = [
    entry("whole", body="body", options={"evaluations_per_epoch": 2, "accumulate": 2}),
    entry("stopped", body="body", options={"evaluations_per_epoch": 2, "accumulate": 2}, stop=3),
    entry("stopped", body="body", options={"evaluations_per_epoch": 2, "accumulate": 2},
          resume=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process made, and what two did, of the same runs."""
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    folder = tmp_path_factory.mktemp("torchrun")
    for name in ("one", "two"):
        (folder / name).mkdir()
        write_body(folder / name / "body")
        write_body(folder / name / "still", **STILL)
        write_model(folder / name / "words", BertModel, initializer_range=0.1, **STILL)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start, runs in (
        ("one", [], [*RUNS, CROSSING]),
        ("two", launch, [*RUNS, *DROPPING, {**CROSSING, "stop": 3}]),
        ("two", [], [{**CROSSING, "resume": True}]),
    ):
        folders = [HERE, HERE.parent / "exits", HERE.parent / "models", *map(Path, sys.path)]
        done = subprocess.run(
            [sys.executable, *start, HERE / "torchrun_runs.py", folder / name, json.dumps(runs)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, folders)),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder


def said(folder: Path, name: str, rank: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}-{rank}.json").read_text())
    return found


@pytest.mark.parametrize("name", [run["name"] for run in (*RUNS, CROSSING)])
def test_two_processes_learn_what_one_does(name: str, place: Path) -> None:
    one, two = (load_file(place / n / name / "model.safetensors") for n in ("one", "two"))
    body = "words" if name.startswith("tag") else "still"
    start = load_file(place / "one" / body / "model.safetensors")
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        # That one's gradient is 0 but for rounding, of which Adam makes steps.
        if key.endswith("key.bias"):
            continue
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5, msg=key)
        before = start.get(key.removeprefix("bert."))
        if before is not None and "word" not in key and "position" not in key:
            assert (tensor - before).abs().max() > 2e-3, key  # far more than they differ
    ranks = "alone", "alone" if name == "crossing" else "0"
    logs = [
        said(place / n, name, rank)["log"] for n, rank in zip(("one", "two"), ranks, strict=True)
    ]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    losses = [[line["loss"] for line in log] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_first_process_alone_tells_and_all_report_the_same(place: Path) -> None:
    for run in RUNS:
        first, second = (said(place / "two", run["name"], rank) for rank in ("0", "1"))
        assert first["told"] > 0
        assert second["told"] == 0
        for line in (*first["log"], *second["log"]):
            line["seconds"] = 0
        assert first["log"] == second["log"]


def test_a_resumed_run_of_two_ends_in_the_same_bytes(place: Path) -> None:
    whole, again = (
        (place / "two" / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")
    )
    assert whole == again
    assert len(said(place / "two", "stopped", "0")["log"]) == 4
    assert not list((place / "two").glob(".*"))


def test_each_process_has_dropout_of_its_own() -> None:
    # Rank 1 draws what no other draws, and the same whenever it goes on from the same evaluation.
    draws = {}
    for rank, moment in ((0, 0), (1, 0), (1, 1), (2, 0)):
        torch.manual_seed(4)
        several = _Together.__new__(_Together)
        several.rank, several.size = rank, 3
        several.reseed(4, moment)
        draws[rank, moment] = torch.rand(3).tolist()
    torch.manual_seed(4)
    assert draws[0, 0] == torch.rand(3).tolist()
    assert len({tuple(draw) for draw in draws.values()}) == 4


def test_one_process_is_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    group = training_group()
    assert (group.rank, group.size, group.is_first) == (0, 1, True)
    parameter = nn.Parameter(torch.ones(2))
    assert group.add_up([parameter], 1.5) == 1.5
    assert group.share([3, 4]) == [3, 4]
    assert group.told(lambda: {"a": 1}) == {"a": 1}
    # Variables that other launchers set are none of torchrun's.
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    assert training_group().size == 1
    assert offramp.TrainingOptions().accumulate == 1
