"""`offramp convert` and `offramp inspect`: what a person sees of a good run, and of a bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from invoking import Run

import offramp

PADDLE = Path(__file__).resolve().parents[1] / "golden" / "paddle"
WORDS = PADDLE / "bert/BertForMaskedLM"


# ---------------------------------------------------------------------- convert


def test_convert_there_and_back(run: Run, tmp_path: Path) -> None:
    done = run("convert", WORDS, tmp_path / "hf")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == str(offramp.convert(WORDS, tmp_path / "hf")).splitlines()
    assert f"{WORDS} (paddle) -> {tmp_path / 'hf'} (hf): 44 tensors" in done.out
    assert "transformers does not: pass it a mask" in done.out
    done = run("convert", tmp_path / "hf", tmp_path / "paddle", "--to", "paddle")
    assert done.code == 0
    assert "tied        cls.predictions.decoder.weight is" in done.out
    found = offramp.inspect(tmp_path / "paddle").to_dict()["tensors"]
    assert found == offramp.inspect(WORDS).to_dict()["tensors"]


def test_options_of_convert(run: Run, tmp_path: Path) -> None:
    done = run("convert", WORDS, tmp_path / "shards", "--max-shard-size", "2KB")
    assert done.code == 0
    assert (tmp_path / "shards/model.safetensors.index.json").is_file()

    half = tmp_path / "half"
    shutil.copytree(PADDLE / "formats/bfloat16", half)
    values = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**values, "dtype": None}))
    assert run("convert", half, tmp_path / "told", "--uint16-is-bfloat16").code == 0
    assert json.loads((tmp_path / "told/config.json").read_text())["dtype"] == "bfloat16"

    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(WORDS / "config.json", old)
    state = torch.nn.Linear(2, 2).state_dict()
    torch.save(state, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    done = run("convert", old, tmp_path / "read")
    assert done.code == 2
    assert "allow_legacy_pickle" in done.err
    assert run("convert", old, tmp_path / "read", "--allow-legacy-pickle").code == 0


@pytest.mark.parametrize(
    ("source", "target", "to", "said"),
    [
        ("absent", "new", "hf", "does not exist"),
        (PADDLE / "formats/uie", "new", "hf", "linear_start.weight"),
        (WORDS, WORDS, "paddle", "is the model itself"),
        (WORDS, "new", "research", "has none"),
        (WORDS, "new", "torch", "'torch' is not one of 'hf', 'paddle', 'research', 'pabee'"),
    ],
)
def test_what_is_not_converted(
    source: str | Path, target: str | Path, to: str, said: str, run: Run, tmp_path: Path
) -> None:
    done = run("convert", source, tmp_path / target, "--to", to)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- inspect


def test_inspect_says_what_there_is(run: Run) -> None:
    done = run("inspect", WORDS)
    assert (done.code, done.err) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.out.splitlines()}
    assert rows["model"] == "BertForMaskedLM"
    assert rows["names"] == "paddle"
    assert rows["parameters"] == "1,824 in 46 tensors"
    assert rows["types"] == "F32 1,824"
    assert rows["vocab_size"] == "24"
    assert rows["exits"] == "none"
    size = (WORDS / "model_state.pdparams").stat().st_size
    assert rows["model_state.pdparams"] == f"{size:,} bytes"


def test_a_line_for_each_tensor(run: Run) -> None:
    done = run("inspect", WORDS, "--tensors")
    for tensor in offramp.inspect(WORDS).tensors:
        assert f" {tensor.name} " in done.out
        assert f" {tensor.own_name} " in done.out


def test_inspect_as_json(run: Run) -> None:
    for source in (WORDS, WORDS / "model_state.pdparams", PADDLE / "formats/sharded"):
        done = run("inspect", source, "--json")
        assert (done.code, done.err) == (0, "")
        assert json.loads(done.out) == json.loads(json.dumps(offramp.inspect(source).to_dict()))
    done = run("inspect", PADDLE / "formats/bfloat16/model_state.pdparams", "--json")
    assert json.loads(done.out)["dtypes"].keys() == {"BF16"}


def test_uint16_is_what_it_is_said_to_be(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "w.pdparams"
    shutil.copy(PADDLE / "formats/bfloat16/model_state.pdparams", file)
    for options, kind in (([], "U16"), (["--uint16-is-bfloat16"], "BF16")):
        done = run("inspect", file, "--json", *options)
        assert json.loads(done.out)["dtypes"].keys() == {kind}


def test_what_cannot_be_inspected(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    for name, said in (("absent", "does not exist"), ("cut.safetensors", "is refused")):
        done = run("inspect", tmp_path / name)
        assert (done.code, done.out) == (2, "")
        assert said in done.err


def test_brackets_are_shown_as_they_are(run: Run, tmp_path: Path) -> None:
    shutil.copytree(WORDS, tmp_path / "x")
    values = json.loads((WORDS / "config.json").read_text())
    changed = {**values, "architectures": ["[/model]"], "model_type": "[red]bert"}
    (tmp_path / "x/config.json").write_text(json.dumps(changed))
    done = run("inspect", tmp_path / "x")
    assert done.code == 0
    assert "[/model]" in done.out
    assert "[red]bert" in done.out


def test_both_work_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
        "from offramp.cli import main; main()"
    )
    for args in (["convert", str(WORDS), "hf"], ["inspect", "hf", "--tensors"]):
        command = [sys.executable, "-W", "error", "-c", program, *args]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert "bert.embeddings.LayerNorm.weight" in done.stdout


# ---------------------------------------------------------------------- verify


def test_verify_says_what_is_not_as_it_was_saved(run: Run, tmp_path: Path) -> None:
    offramp.convert(WORDS, tmp_path / "hf")
    done = run("verify", tmp_path / "hf")
    assert (done.code, done.err) == (0, "")
    assert "is as it was saved: 2 files" in done.out
    (tmp_path / "hf/config.json").write_text("{}")
    (tmp_path / "hf/model.safetensors").unlink()
    (tmp_path / "hf/notes.txt").write_text("mine")
    done = run("verify", tmp_path / "hf")
    assert (done.code, done.err) == (1, "")
    told = str(offramp.verify(tmp_path / "hf"))
    assert done.out.splitlines() == told.splitlines()
    assert "model.safetensors: missing" in told
    assert "notes.txt: not in the manifest" in told
    done = run("verify", tmp_path / "hf", "--json")
    assert done.code == 1
    assert json.loads(done.out)["missing"] == ["model.safetensors"]
    assert json.loads(done.out)["damaged"].keys() == {"config.json"}


def test_verify_of_what_offramp_did_not_save(run: Run, tmp_path: Path) -> None:
    done = run("verify", WORDS)
    assert done.code == 1
    assert "has no offramp_manifest.json" in done.out
    done = run("verify", tmp_path / "absent")
    assert (done.code, done.out) == (2, "")
    assert "is no directory" in done.err
