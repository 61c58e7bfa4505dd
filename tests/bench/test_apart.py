"""Engines in processes of their own: the same answers, errors told, and no process left over."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_engines import SETTING, classifier, some_rows

from offramp.bench.apart import ENGINES, Apart, EngineFailedError
from offramp.errors import OfframpError, UnsupportedError
from offramp.runner.run import Runner

pytest.importorskip("transformers")


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")  # one that nobody waited for has ended too


@pytest.mark.parametrize("name", ENGINES)
def test_it_answers_as_the_engine_does(name: str, tmp_path: Path) -> None:
    if name.startswith("CTranslate2"):
        pytest.importorskip("ctranslate2")
    if name.startswith("ONNX"):
        pytest.importorskip("onnxruntime")
    model, rows = classifier("bert", tmp_path), some_rows()
    run = Apart(tmp_path, SETTING, name=name).prepare(rows)
    expected = Runner(model, exits=False).run(rows).logits_RC
    bound = 0.5 if "int8" in name else 1e-3
    for _ in range(2):
        torch.testing.assert_close(run(), expected, rtol=bound, atol=bound)


def test_its_process_ends_with_it(tmp_path: Path) -> None:
    classifier("bert", tmp_path)
    engine = Apart(tmp_path, SETTING, name="transformers, sorted")
    run, pid = engine.prepare(some_rows()), engine._process.pid
    del engine
    gc.collect()
    assert is_running(pid)
    run()
    del run
    gc.collect()
    assert not is_running(pid)


def test_it_does_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    classifier("bert", tmp_path)
    program = """
import os, sys
from pathlib import Path
from offramp.bench.apart import Apart
from offramp.bench.engine import Setting
engine = Apart(Path(sys.argv[1]), Setting(8, 1), name="transformers, sorted")
print(engine._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    pid, deadline = int(done.stdout), time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_family_that_an_engine_has_not(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    classifier("electra", tmp_path)
    with pytest.raises(UnsupportedError, match="this one is of electra"):
        Apart(tmp_path, SETTING, name="CTranslate2, sorted")


def test_what_an_engine_raises_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(OfframpError, match=r"It failed: \w+: .*config\.json"):
        Apart(tmp_path, SETTING, name="transformers, sorted")


def test_it_runs_no_code_of_the_folder_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = classifier("bert", tmp_path), some_rows()
    for name in ("torch", "json", "numpy", "offramp", "transformers", "os"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    run = Apart(Path(), SETTING, name="transformers, sorted").prepare(rows)
    expected = Runner(model, exits=False).run(rows).logits_RC
    torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-3)


def test_a_process_that_ends_is_told(tmp_path: Path) -> None:
    classifier("bert", tmp_path)
    engine = Apart(tmp_path, SETTING, name="transformers, sorted")
    engine._process.kill()
    with pytest.raises(EngineFailedError, match="Its process ended, with exit status -9"):
        engine.prepare(some_rows())
