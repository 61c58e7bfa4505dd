"""`offramp push`, `pull` and `cache`: what a person sees."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_repository import NAME, ONE_FILE, WANTED, contents, put
from tiny import TINY

import offramp
from hub_server import TOKEN, HubServer
from offramp.cli import main

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command, run here: its exit code, what it printed, and what it said beside that."""
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["offramp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model's directory, with what does not belong to a model."""
    torch.manual_seed(0)
    model = offramp.BertForSequenceClassification(offramp.BertConfig(**TINY))
    model.save_pretrained(tmp_path / "saved")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "saved" / "vocab.txt").write_text("\n".join(words))
    for name in (".env", "id_rsa", "train.tsv", "optimizer.pt", "token", "notes.md"):
        (tmp_path / "saved" / name).write_text("private")
    (tmp_path / "saved" / ".git").mkdir()
    (tmp_path / "saved" / ".git" / "config").write_text("private")
    return tmp_path / "saved"


def test_push_and_pull(run: Run, hub: HubServer, saved: Path) -> None:
    code, out, err = run("push", saved, NAME, "--message", "First", "--private")
    repository = hub.repositories[NAME]
    commit = repository.find("main")
    assert (code, err) == (0, "") and commit is not None and commit.title == "First"
    assert out.strip() == f"{hub.endpoint}/{NAME}/commit/{commit.oid}"
    expected = {".gitattributes", "README.md", "config.json", "model.safetensors", "vocab.txt"}
    assert set(commit.files) == expected and repository.private
    code, out, err = run("pull", NAME)
    assert (code, err) == (0, "")
    assert set(contents(Path(out.strip()))) == {*WANTED}
    assert offramp.load(NAME).model.config.hidden_size == TINY["hidden_size"]


def test_push_says_what_it_would_send(run: Run, hub: HubServer, saved: Path) -> None:
    code, out, _ = run("push", saved, NAME, "--dry-run", "--subfolder", "inner", "--revision", "v2")
    assert code == 0 and not hub.repositories
    assert out.splitlines()[0] == f"To {NAME}, v2:"
    assert sorted(line.split()[0] for line in out.splitlines()[1:]) == [
        "inner/README.md",
        "inner/config.json",
        "inner/model.safetensors",
        "inner/vocab.txt",
    ]
    (saved / "README.md").write_text("---\ntags: [mine]\n---\nMine.\n")
    assert run("push", saved, NAME)[0] == 0
    assert b"Mine." in hub.repositories[NAME].find("main").files["README.md"][1]


def test_a_saver_waits_until_what_is_there_is_sent(
    run: Run, hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = (saved / "model.safetensors").read_bytes()
    torch.manual_seed(1)
    newer = offramp.BertForSequenceClassification(offramp.BertConfig(**TINY))
    saver = threading.Thread(target=lambda: newer.save_pretrained(saved))
    preupload = hub._preupload

    async def and_a_save_begins(*arguments: Any) -> Any:
        saver.start()
        await asyncio.sleep(0.3)
        return await preupload(*arguments)

    monkeypatch.setattr(hub, "_preupload", and_a_save_begins)
    assert run("push", saved, NAME)[0] == 0
    saver.join()
    assert hub.repositories[NAME].find("main").files["model.safetensors"][1] == older
    assert (saved / "model.safetensors").read_bytes() != older


def test_what_push_refuses(run: Run, hub: HubServer, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (saved / "merges.txt").symlink_to("/etc/passwd")
    for arguments, said in (
        ((tmp_path / "empty", NAME), "holds no model"),
        ((tmp_path / "absent", NAME), "is no directory"),
        ((saved, NAME), "merges.txt is refused"),
        ((saved, "../x"), "offramp: "),
    ):
        code, _, err = run("push", *arguments)
        assert code == 2 and said in err and "Traceback" not in err
    assert not hub.log


def test_pull_takes_a_revision_and_says_what_is_wrong(run: Run, hub: HubServer) -> None:
    repository = put(hub)
    repository.refs["v2"] = repository.refs["main"]
    repository.commit({"config.json": b"{}"})
    for arguments in ((f"{NAME}@v2",), (NAME, "--revision", "v2", "--force")):
        code, out, _ = run("pull", *arguments)
        assert code == 0 and repository.refs["v2"] in out
    code, _, err = run("pull", "owner/none")
    assert code == 2 and "owner/none is not on" in err
    code, _, err = run("pull", "bert-tiny")
    assert code == 2 and "prajjwal1/bert-tiny is not on" in err


def test_the_cache_is_listed_and_verified(run: Run, hub: HubServer, tmp_path: Path) -> None:
    put(hub)
    assert run("cache", "list")[0] == 0
    run("pull", NAME)
    code, out, _ = run("cache", "list")
    size = sum(len(ONE_FILE[name]) for name in WANTED)
    assert code == 0 and NAME in out and f"{size:,}" in out and "main" in out
    assert run("cache", "verify")[:2] == (0, "3 files are what they are named by.\n")
    (weights,) = (p for p in (tmp_path / "cache").rglob("blobs/*") if p.stat().st_size == 200_000)
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk does it
    code, out, err = run("cache", "verify", NAME)
    assert code == 2 and "1 of 3 files are damaged" in err and weights.name in out
    assert run("pull", NAME)[0] == 0
    assert run("cache", "verify", NAME)[0] == 0
    code, _, err = run("cache", "verify", "owner/none")
    assert code == 2 and "is not in the cache" in err


def test_the_cache_is_pruned(run: Run, hub: HubServer, tmp_path: Path) -> None:
    repository = put(hub)
    run("pull", NAME)
    directory = tmp_path / "cache" / "models--owner--model"
    old = repository.find("main")
    assert old is not None
    for path in (directory / "snapshots" / old.oid).iterdir():
        if path.name == "vocab.txt":
            unused = path.resolve()
            path.unlink()
    half = directory / "blobs" / f"{'0' * 64}.abc.incomplete"
    half.write_bytes(b"half")
    assert run("cache", "prune")[1] == "0 bytes freed.\n", "they may be on their way"
    long_ago = time.time() - 100_000
    for path in (half, unused):
        os.utime(path, (long_ago, long_ago))
    code, out, _ = run("cache", "prune", "--dry-run")
    assert code == 0 and half.name in out and out.endswith("bytes would be freed.\n")
    assert half.exists() and unused.exists()
    assert run("cache", "prune")[0] == 0
    assert not half.exists() and not unused.exists()
    found = contents(directory / "snapshots" / old.oid)
    assert found == {n: ONE_FILE[n] for n in ("config.json", "model.safetensors")}
    assert json.loads(found["config.json"])
