"""From a model to the hub: one commit of what is the model's, whatever becomes of the answers."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError
from tiny import IDS, MASK, TINY

import offramp
from hub_server import TOKEN, HubServer, Repository
from offramp import BertConfig, BertForSequenceClassification, ConfigError, HubError
from offramp.checkpoints.card import merged_card, new_card
from offramp.hub import upload as uploading
from offramp.hub.upload import Target, looks_secret, upload
from offramp.models.names import whole_model
from offramp.models.sharing import push_directory

NAME = "owner/model"
SHARDED = "2KB"

pytestmark = pytest.mark.filterwarnings(  # the client's own, in a thread that sends a file
    "ignore:Use 'content=:DeprecationWarning"
)


@pytest.fixture
def hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub, with a token that may write; the client does not wait either."""
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
    yield hub


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    made = BertForSequenceClassification(BertConfig(**TINY, id2label={0: "no", 1: "yes"}))
    offramp.add_exits(made, [1])
    return made.eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def load(**options: Any) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(NAME, **options)


def here(hub: HubServer) -> Repository:
    return hub.repositories[NAME]


def commits(repository: Repository) -> int:
    return len(repository.commits)


def files(directory: Path, **contents: str) -> dict[str, Path]:
    directory.mkdir(exist_ok=True)
    found = {}
    for name, text in {"config.json": "{}", **contents}.items():
        (directory / name).write_text(text)
        found[name] = directory / name
    return found


# Push, then pull


@pytest.mark.parametrize("where", ["root", "subfolder", "branch", "request", "request to a branch"])
def test_push_then_pull_is_exact(
    hub: HubServer,
    model: BertForSequenceClassification,
    where: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A sharded model with exits; what comes back is it to the bit."""
    options: dict[str, Any] = {}
    if where == "subfolder":
        options["subfolder"] = "inner/one"
    if "branch" in where:
        options["revision"] = "v/2"
    if where == "request to a branch":
        hub.repository(NAME)
        here(hub).commit({"only-here": b""}, "v/2")
    if "request" in where:
        options["create_pr"] = True
    url = model.save_to_hf_hub(NAME, max_shard_size=SHARDED, **options)
    assert not capfd.readouterr().err, "no bars where nobody looks"
    ref = "refs/pr/1" if "request" in where else options.get("revision", "main")
    commit = here(hub).find(ref)
    assert commit is not None and url == f"{hub.endpoint}/{NAME}/commit/{commit.oid}"
    folder = options.get("subfolder", ".")
    assert commit.title == f"Upload {folder} with huggingface_hub"
    assert sum(path.endswith(".safetensors") for path in commit.files) > 2
    back = load(revision=ref, subfolder=options.get("subfolder"))
    assert same(model, back) and back.config.exits == model.exits.section()
    torch.testing.assert_close(back(IDS, MASK).logits, model(IDS, MASK).logits, rtol=0, atol=0)
    if "request" in where:
        base = here(hub).find(options.get("revision", "main"))
        assert base is not None and commit.parent == base.oid
        assert ("only-here" in commit.files) == (where == "request to a branch")
        assert not any(path.endswith(".safetensors") for path in base.files)


def test_a_classifier_goes_up_with_its_tokenizer(
    hub: HubServer, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "good",
        "bad",
        "film",
        "a",
        "the",
        "is",
        "so",
        "very",
        "was",
        "it",
        "and",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = offramp.Tokenizer.from_pretrained(tmp_path, max_length=8)
    classifier = offramp.Classifier(model, tokenizer)
    classifier.push_to_hub(NAME, private=True, tags=["films"])
    assert here(hub).private
    back = offramp.load(NAME)
    rows = ["a good film", "so very bad"]
    assert list(back.predict(rows)) == list(classifier.predict(rows))
    assert "- films" in here(hub).find("main").files["README.md"][1].decode()
    classifier.push_to_hub(NAME, max_shard_size=SHARDED)
    names = here(hub).find("main").files
    assert "model.safetensors" not in names and "model.safetensors.index.json" in names
    assert list(offramp.load(NAME).predict(rows)) == list(classifier.predict(rows))


def test_push_to_hub_is_called_as_transformers_has_it(
    hub: HubServer, model: BertForSequenceClassification
) -> None:
    from inspect import signature

    from transformers import BertModel

    theirs = dict(signature(BertModel.push_to_hub).parameters)
    assert list(signature(model.push_to_hub).parameters) == list(theirs)[1:]
    model.push_to_hub(NAME)
    assert here(hub).find("main").title == "Upload BertForSequenceClassification"
    model.push_to_hub(NAME, commit_message="Again", revision="other")
    assert commits(here(hub)) == 2, "nothing is new, so there is no commit"
    assert "other" in here(hub).refs


def test_a_model_takes_an_older_one_s_place(
    hub: HubServer, model: BertForSequenceClassification
) -> None:
    older = BertForSequenceClassification(BertConfig(**TINY))
    older.save_to_hf_hub(NAME)
    here(hub).commit({"notes.txt": b"kept", "pytorch_model.bin": b"old", "inner/w.bin": b"kept"})
    model.save_to_hf_hub(NAME, max_shard_size=SHARDED)
    there = here(hub).find("main").files
    assert not {"model.safetensors", "pytorch_model.bin"} & there.keys()
    assert {"notes.txt", "inner/w.bin"} <= there.keys()
    assert same(model, load())


def test_a_dry_run_sends_nothing(hub: HubServer, model: BertForSequenceClassification) -> None:
    said = model.save_to_hf_hub(NAME, subfolder="inner", dry_run=True, create_pr=True)
    assert not hub.log
    assert said.startswith(f"To {NAME}, a pull request against main:")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert f"  inner/{name} (" in said


# The model card


def test_a_card_is_written_where_there_is_none(
    hub: HubServer, model: BertForSequenceClassification
) -> None:
    model.save_to_hf_hub(NAME)
    card = here(hub).find("main").files["README.md"][1].decode()
    about = huggingface_hub.ModelCard(card).data
    assert about.library_name == "offramp" and about.pipeline_tag == "text-classification"
    assert about.tags == ["offramp", "early-exit", "bert"]
    for part in ("2 layers", "`no`, `yes`", "after 1 layers", f"offramp.load('{NAME}')"):
        assert part in card
    assert "no certificate" in card
    own = here(hub).commit({"README.md": b"my own words"})
    model.config.id2label = {0: "a", 1: "b"}
    model.save_to_hf_hub(NAME)
    now = here(hub).find("main")
    assert now.oid != own.oid and now.files["README.md"] == (False, b"my own words")


def test_a_card_has_what_was_measured_and_proved(model: BertForSequenceClassification) -> None:
    from offramp.models.card import model_card

    exits = {
        "depths": [1],
        "criterion": {"kind": "entropy", "threshold": 0.1},
        "calibration": {
            "measure": "accuracy",
            "score": 0.91,
            "mean_layers": 1.5,
        },
    }
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    card = model_card({**config, "exits": exits}, NAME, None, "## What it costs\n\nlittle")
    proved = "<!-- offramp: begin -->\n## What it costs\n\nlittle\n<!-- offramp: end -->\n"
    for part in ("| score | 0.91 |", "(accuracy)", proved):
        assert part in card
    # A later save of what was pulled finds it again.
    assert b"What it costs" not in (merged_card(card.encode(), None) or b"")
    assert "no certificate" in model_card({**config, "exits": exits}, NAME)
    hostile = {**config, "exits": {"depths": "`|\n# x", "criterion": None, "calibration": []}}
    assert "\n# x" not in model_card(hostile, NAME)
    assert model_card({}, NAME, "inner").count("subfolder='inner'") == 1


def test_a_card_that_a_save_wrote_alone_becomes_a_whole_one(
    hub: HubServer, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(new_card("## What it costs"))
    push_directory(tmp_path, NAME, whole_model)
    card = here(hub).find("main").files["README.md"][1].decode()
    assert huggingface_hub.ModelCard(card).data.pipeline_tag == "text-classification"


# What does not go up


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.local",
        "prod.env",
        "key.pem",
        "id_rsa",
        "id_ed25519.pub",
        "token",
        "hf_token",
        "token.txt",
        "credentials.json",
        "inner/credentials",
        "aws-credentials.json",
        ".netrc",
        ".git/config",
        ".ssh/known_hosts",
        "secrets.yaml",
        "x.p12",
        "client_secret.json",
        "service-account-1.json",
        "server.key",
    ],
)
def test_what_looks_like_a_secret(path: str, tmp_path: Path) -> None:
    assert looks_secret(path)
    (tmp_path / "x").write_text("x")
    with pytest.raises(HubError, match="not uploaded"):
        upload({path: tmp_path / "x"}, Target(NAME), "message")


@pytest.mark.parametrize(
    "path",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "spiece.model",
        "merges.txt",
        "README.md",
        "1_Pooling/config.json",
        "generation_config.json",
        "modules.json",
    ],
)
def test_what_a_model_has_looks_like_none(path: str) -> None:
    assert not looks_secret(path)


# What cannot be


def test_a_commit_s_id_is_no_branch(hub: HubServer, model: BertForSequenceClassification) -> None:
    with pytest.raises(HubError, match="is a commit's id") as caught:
        model.save_to_hf_hub(NAME, revision="a" * 40)
    assert isinstance(caught.value, RevisionNotFoundError) and not hub.log
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and type(again) is type(caught.value)
    hub.repository(NAME)
    with pytest.raises(RevisionNotFoundError, match="no branch 'v9' to make a pull request"):
        model.save_to_hf_hub(NAME, revision="v9", create_pr=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"repo_id": "../x"}, HubError),
        ({"repo_id": "https://x.org/a"}, HubError),
        ({"repo_id": "a b/c"}, HubError),
        ({"subfolder": "../up"}, ConfigError),
        ({"subfolder": "/etc"}, ConfigError),
        ({"subfolder": "a\\b"}, ConfigError),
        ({"subfolder": ""}, ConfigError),
        ({"revision": "a b"}, ConfigError),
        ({"commit_message": ""}, ConfigError),
        ({"private": "yes"}, ConfigError),
        ({"create_pr": 1}, ConfigError),
        ({"token": ""}, ConfigError),
        ({"dry_run": 3}, ConfigError),
    ],
)
def test_arguments_that_cannot_be(
    hub: HubServer, model: BertForSequenceClassification, options: dict[str, Any], error: Any
) -> None:
    with pytest.raises(error):
        model.save_to_hf_hub(**{"repo_id": NAME, **options})
    assert not hub.log


def test_who_may_not_write(
    hub: HubServer, model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="does not let you write.*hf auth login"):
        model.save_to_hf_hub(NAME, token="hf_another")
    monkeypatch.delenv("HF_TOKEN")
    hub.repository(NAME)
    with pytest.raises(HubError, match="does not let you write"):
        model.save_to_hf_hub(NAME)
    with pytest.raises(HubError, match="token=True"):
        model.save_to_hf_hub(NAME, token=True)
    assert commits(here(hub)) == 1


def test_offline_nothing_is_sent(
    hub: HubServer, model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        model.save_to_hf_hub(NAME)
    assert not hub.log


def test_what_a_gitignore_leaves_out_is_said(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(NAME).ignored = ("vocab.txt",)
    with pytest.raises(HubError, match=r"not as it was sent: vocab.txt.*\.gitignore"):
        upload(files(tmp_path, **{"vocab.txt": "a"}), Target(NAME), "message")


# Faults


@pytest.mark.parametrize("create_pr", [False, True])
@pytest.mark.parametrize("kind", ["lost", "html", "status", "drop"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_answer_that_is_lost_makes_no_second_commit(
    hub: HubServer, tmp_path: Path, create_pr: bool, kind: str, times: int
) -> None:
    repository = hub.repository(NAME)
    hub.fault("POST .*/commit/", kind, times=times, code=502)
    url = upload(files(tmp_path), Target(NAME, create_pr=create_pr), "message")
    assert commits(repository) == 2
    assert sum(ref.startswith("refs/pr/") for ref in repository.refs) == create_pr
    ref = "refs/pr/1" if create_pr else "main"
    assert url.endswith(repository.refs[ref])
    assert repository.find(ref).files["config.json"][1] == b"{}"


@pytest.mark.parametrize("create_pr", [False, True])
def test_the_last_answer_may_be_lost_too(hub: HubServer, tmp_path: Path, create_pr: bool) -> None:
    repository = hub.repository(NAME)
    hub.fault("POST .*/commit/", "status", times=4, code=502)
    hub.fault("POST .*/commit/", "lost", times=1)
    url = upload(files(tmp_path), Target(NAME, create_pr=create_pr), "message")
    assert len(hub.asked("POST .*/commit/")) == 5 and commits(repository) == 2
    assert url.endswith(repository.refs["refs/pr/1" if create_pr else "main"])


def test_a_name_without_its_owner(hub: HubServer, tmp_path: Path) -> None:
    url = upload(files(tmp_path), Target("model"), "message")
    assert url.startswith(f"{hub.endpoint}/{NAME}/commit/") and commits(here(hub)) == 2


def test_a_commit_that_arrives_late_is_one(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done after the branch was looked at, while the second is on its way."""
    repository = hub.repository(NAME)
    hub.fault("POST .*/commit/", "drop")
    commit = hub._commit

    async def the_first_lands(*args: Any) -> Any:
        repository.commit({"config.json": b"{}"}, title="the first")
        return await commit(*args)

    monkeypatch.setattr(hub, "_commit", the_first_lands)
    url = upload(files(tmp_path), Target(NAME), "message")
    assert len(hub.asked("POST .*/commit/")) == 2 and commits(repository) == 2
    assert url.endswith(repository.refs["main"])


def test_a_branch_that_moved_takes_nothing(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.repository(NAME)
    whole = uploading._Uploading._send

    def after_another(self: Any, *args: Any) -> str:
        repository.commit({"other.txt": b"someone else's"})
        return whole(self, *args)

    monkeypatch.setattr(uploading._Uploading, "_send", after_another)
    for create_pr in (False, True):
        with pytest.raises(HubError, match="main of owner/model has moved from"):
            upload(files(tmp_path), Target(NAME, create_pr=create_pr), "message")
    assert commits(repository) == 3


@pytest.mark.parametrize(
    "where",
    ["repos/create", "revision/", "/tree/", "preupload", "objects/batch", "PUT /lfs/", "verify"],
)
@pytest.mark.parametrize("kind", ["status", "drop", "truncate", "html"])
def test_a_passing_fault_of_an_upload(
    hub: HubServer, tmp_path: Path, where: str, kind: str
) -> None:
    repository = hub.repository(NAME)
    hub.fault(where, kind, code=503)
    upload(files(tmp_path, **{"model.safetensors": "weights"}), Target(NAME), "message")
    assert commits(repository) == 2
    assert repository.find("main").files["model.safetensors"] == (True, b"weights")


@pytest.mark.parametrize(
    "where", ["repos/create", "revision/", "/tree/", "preupload", "objects/batch", "commit/"]
)
@pytest.mark.parametrize("kind", ["status", "drop", "html", "loop"])
def test_a_lasting_fault_of_an_upload_is_said(
    hub: HubServer, tmp_path: Path, where: str, kind: str
) -> None:
    repository = hub.repository(NAME)
    hub.fault(where, kind, code=503, times=10_000)
    with pytest.raises(HubError):
        upload(files(tmp_path, **{"model.safetensors": "weights"}), Target(NAME), "message")
    assert commits(repository) == 1


def test_what_is_damaged_on_its_way_up_is_noticed(hub: HubServer, tmp_path: Path) -> None:
    """The object that arrived is not the one whose hash was promised."""
    repository = hub.repository(NAME)
    put = hub._take_object

    async def damaged(request: Any) -> Any:
        answer = await put(request)
        oid = request.path_params["oid"]
        hub.objects[oid] = hub.objects[oid][:-1] + b"?"
        return answer

    for route in hub._routes.routes:
        if getattr(route, "path", "") == "/lfs/{oid}":
            from starlette.routing import Route

            hub._routes.routes.insert(0, Route("/lfs/{oid}", damaged, methods=["PUT"]))
            break
    with pytest.raises(HubError):
        upload(files(tmp_path, **{"model.safetensors": "weights"}), Target(NAME), "message")
    assert commits(repository) == 1


def test_an_upload_does_not_wait_for_ever(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository(NAME)
    monkeypatch.setattr(uploading, "SILENCE", 0.2)
    hub.fault("POST .*/commit/", "slow", seconds=1)
    patience = huggingface_hub.get_session().timeout
    begin = time.monotonic()
    upload(files(tmp_path), Target(NAME), "message")
    assert time.monotonic() - begin < 5
    time.sleep(1)  # the first has not become one after all
    assert commits(here(hub)) == 2
    assert huggingface_hub.get_session().timeout == patience, "it is as the client left it"


def test_a_file_that_is_gone_meanwhile(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(NAME)
    sent = files(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(HubError, match="cannot be read"):
        upload(sent, Target(NAME), "message")
