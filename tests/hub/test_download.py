"""From a hub to the cache: what is fetched, how it is checked, and what is said when it fails."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from model_repository import (
    NAME,
    ONE_FILE,
    SHARDED,
    SHARDS,
    WANTED,
    WEIGHTS,
    contents,
    put,
    select,
    wanted,
)

from hub_server import TOKEN, HubServer, git_sha1
from offramp import HubError
from offramp.hub import client
from offramp.hub.cache import CachedRepository, Entry, is_safe_path
from offramp.hub.client import RefusedError, UnreachableError
from offramp.hub.names import MIRRORS, Request, Source, find


def fetch(**options: Any) -> Path:
    return find(Source(NAME), Request(**options), select)


def all_files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


# What is fetched


def test_only_what_is_needed_is_fetched_and_once(hub: HubServer, tmp_path: Path) -> None:
    commit = put(hub).find("main")
    directory = fetch()
    assert commit is not None and directory.name == commit.oid
    assert contents(directory) == wanted()
    assert [one.path.rpartition("/")[2] for one in hub.asked("resolve")].sort() == list(
        WANTED
    ).sort()
    assert len(hub.asked("/cdn/")) == 1
    before = len(hub.log)
    assert fetch() == directory
    assert [one.path for one in hub.log[before:]] == [f"/api/models/{NAME}/revision/main"]


def test_an_index_comes_before_what_it_names(hub: HubServer) -> None:
    put(hub, SHARDED)
    assert contents(fetch()) == SHARDED
    order = [one.path.rpartition("/")[2] for one in hub.asked("resolve")]
    assert order.index("model.safetensors.index.json") < min(map(order.index, SHARDS))


def test_an_index_that_names_what_is_not_there_fetches_no_weights(hub: HubServer) -> None:
    index = json.dumps({"weight_map": {"w": "model-other.safetensors"}}).encode()
    put(hub, {**SHARDED, "model.safetensors.index.json": index})
    with pytest.raises(HubError, match="names model-other.safetensors, which the repository lacks"):
        fetch()
    assert not hub.asked("/cdn/")


@pytest.mark.parametrize("index", [b"{}", b"[", b'{"weight_map": {"w": 3}}', b'{"weight_map": []}'])
def test_an_index_that_is_none(hub: HubServer, index: bytes) -> None:
    put(hub, {**SHARDED, "model.safetensors.index.json": index})
    with pytest.raises(HubError, match="no index of weights"):
        fetch()


def test_a_subfolder_a_branch_a_commit_and_a_pull_request(hub: HubServer) -> None:
    repository = put(hub, {f"inner/{name}": content for name, content in ONE_FILE.items()})
    first = repository.find("main")
    other = {"inner/config.json": b"{}"}
    repository.refs["v/2"] = repository.refs["refs/pr/1"] = repository.refs["main"]
    repository.commit(other, "v/2")
    repository.commit(other, "refs/pr/1")
    assert contents(fetch(subfolder="inner")) == wanted()
    for revision in ("v/2", "refs/pr/1"):
        found = fetch(subfolder="inner", revision=revision)
        assert contents(found) == {**wanted(), "config.json": b"{}"}
    assert first is not None
    before = len(hub.log)
    assert fetch(subfolder="inner", revision=first.oid).parent.name == first.oid
    assert len(hub.log) == before, "a commit that is cached asks nobody"
    assert len(hub.asked("/cdn/")) == 1, "what is the same in three commits came once"


def test_a_branch_that_moved_is_fetched_anew(hub: HubServer) -> None:
    repository = put(hub)
    old = fetch()
    repository.commit({"config.json": b'{"new": 1}'})
    assert contents(fetch()) == {**wanted(), "config.json": b'{"new": 1}'}
    assert contents(old) == wanted()
    assert len(hub.asked("/cdn/")) == 1


def test_force_download_fetches_again(hub: HubServer) -> None:
    put(hub)
    fetch()
    assert contents(fetch(force_download=True)) == wanted()
    assert len(hub.asked("/cdn/")) == 2


def test_a_listing_of_many_pages(hub: HubServer) -> None:
    hub.page = 2
    put(hub, {**ONE_FILE, **{f"logs/{n}": b"%d" % n for n in range(9)}})
    assert contents(fetch()) == wanted()
    assert len(hub.asked("/tree/")) == 8


def test_a_repository_of_no_model(hub: HubServer) -> None:
    put(hub, {"data.csv": b"1"})
    with pytest.raises(HubError, match=r"no model that can be opened: it has data.csv"):
        fetch()


def test_progress_is_quiet_where_nobody_looks(
    hub: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    put(hub)
    fetch()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_progress_is_shown_in_a_terminal(hub: HubServer, disabled: str) -> None:
    put(hub)
    ours, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from model_repository import NAME, select\n"
        "from offramp.hub.names import Request, Source, find\n"
        "find(Source(NAME), Request(), select)\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": disabled}
    subprocess.run(command, env=environment, stderr=terminal, check=True)
    os.write(terminal, b"end")
    os.close(terminal)
    said = b""
    while not said.endswith(b"end"):
        said += os.read(ours, 10_000)
    os.close(ours)
    assert (b"model.safetensors: 100%" in said) == (disabled == "0")


# The cache is the client's


def test_the_client_finds_what_is_here_and_the_other_way_round(
    hub: HubServer, tmp_path: Path
) -> None:
    repository = put(hub)
    ours = fetch()
    options = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    before = len(hub.asked("^GET.*resolve"))
    theirs = huggingface_hub.hf_hub_download(NAME, "model.safetensors", **options)
    assert Path(theirs) == ours / "model.safetensors"
    assert len(hub.asked("^GET.*resolve")) == before
    found = huggingface_hub.scan_cache_dir(tmp_path / "cache")
    assert not found.warnings and [repo.repo_id for repo in found.repos] == [NAME]
    repository.commit({"config.json": b'{"theirs": 1}'})
    huggingface_hub.snapshot_download(NAME, **options)
    before = len(hub.log)
    assert contents(fetch(local_files_only=True))["config.json"] == b'{"theirs": 1}'
    assert len(hub.log) == before


def test_what_the_client_left_damaged_is_not_used(hub: HubServer, tmp_path: Path) -> None:
    """Client 2.4 takes any body of the right length."""
    put(hub)
    hub.fault("/cdn/", "corrupt", times=10)
    options = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    theirs = huggingface_hub.snapshot_download(NAME, **options)
    assert Path(theirs, "model.safetensors").read_bytes() != WEIGHTS
    hub.faults.clear()
    with pytest.raises(HubError, match=r"model.safetensors is damaged: its hash is"):
        fetch(local_files_only=True)
    assert contents(fetch())["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("lacks", WANTED)
def test_a_snapshot_that_lacks_a_file_is_not_taken_as_whole(hub: HubServer, lacks: str) -> None:
    put(hub)
    directory = fetch()
    (directory / lacks).unlink()
    with pytest.raises(HubError, match=f"is cached, but {lacks} is not there"):
        fetch(local_files_only=True)
    assert contents(fetch()) == wanted()
    before = len(hub.asked("resolve"))
    (directory / lacks).resolve().unlink()
    assert contents(fetch()) == wanted()
    assert len(hub.asked("resolve")) == before + 1


def test_a_snapshot_without_a_shard_and_without_a_listing(hub: HubServer, tmp_path: Path) -> None:
    put(hub, SHARDED)
    directory = fetch()
    shutil.rmtree(directory.parents[1] / "trees")
    assert fetch(local_files_only=True) == directory
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(HubError, match="but not its model-00002"):
        fetch(local_files_only=True)


def test_offline_opens_no_connection(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(hub)
    directory = fetch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert fetch() == directory
    with pytest.raises(HubError, match="the hub was not asked: HF_HUB_OFFLINE is set"):
        find(Source("owner/other"), Request(), select)


def test_offline_is_soon_there(hub: HubServer, tmp_path: Path) -> None:
    """In a new process: nothing of the client's is imported, which alone takes longer."""
    put(hub)
    fetch()
    program = (
        "import sys, time\n"
        "import offramp.hub.names as names\n"
        "begin = time.perf_counter()\n"
        "names.find(names.Source(sys.argv[1]), names.Request(), lambda n: list(n))\n"
        "print(time.perf_counter() - begin)\n"
        "assert not {'huggingface_hub', 'httpx', 'httpx2', 'filelock'} & set(sys.modules)\n"
    )
    (trees,) = (tmp_path / "cache").rglob("trees")
    shutil.rmtree(trees)  # all that is there is wanted
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, NAME]
    taken = [float(subprocess.check_output(command, env=environment)) for _ in range(3)]
    assert min(taken) < 0.05


# Bad paths


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "a/../../up",
        "/etc/passwd",
        "a\\b",
        "C:/x",
        "c:x",
        "a\0b",
        "a//b",
        ".",
        "a/.",
        "",
        3,
        "x" * 300,
        "a\nb",
    ],
)
def test_a_path_that_leads_out(path: object) -> None:
    assert not is_safe_path(path)


@pytest.mark.parametrize("path", ["config.json", "1_Pooling/config.json", "..a/b..", "a b"])
def test_a_path_that_stays_inside(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize("path", ["../config.json", "/config.json", "a\\..\\config.json"])
def test_a_listing_leads_nowhere_out_of_the_cache(
    hub: HubServer, tmp_path: Path, path: str
) -> None:
    commit = put(hub).find("main")
    assert commit is not None
    entries = [
        {"type": "file", "path": path, "size": 2, "oid": git_sha1(b"{}")},
        {"type": "file", "path": "model.safetensors", "size": 2, "oid": git_sha1(b"{}")},
    ]
    hub.fault("/tree/", "body", content=json.dumps(entries))
    with pytest.raises(HubError, match="no model that can be opened"):
        find(Source(NAME), Request(), lambda names: [n for n in names if "config" in n])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "file"},
        {"type": "file", "path": "config.json", "size": -1, "oid": "0" * 40},
        {"type": "file", "path": "config.json", "size": 1, "oid": "../../up"},
        {"type": "file", "path": "config.json", "size": 1, "oid": "F" * 40},
        {"type": "file", "path": "config.json", "size": 1, "oid": "0" * 40, "lfs": {"size": 1}},
        {"type": "file", "path": "config.json", "size": 1, "oid": 7},
        "config.json",
    ],
)
def test_a_listing_that_is_not_sound(hub: HubServer, entry: object) -> None:
    put(hub)
    hub.fault("/tree/", "body", content=json.dumps([entry]))
    with pytest.raises(HubError, match="not sound"):
        fetch()


def test_a_listing_that_goes_on_elsewhere_is_not_followed(hub: HubServer) -> None:
    put(hub)
    link = {"Link": f'<{hub.cdn}/api/models/{NAME}/tree/x>; rel="next"'}
    hub.fault("/tree/", "header", headers=link)
    with pytest.raises(HubError, match="which is elsewhere"):
        fetch(token=TOKEN)
    assert not [one for one in hub.log if one.on_cdn]


def test_an_etag_names_nothing_unless_it_is_a_hash(tmp_path: Path) -> None:
    repository = CachedRepository(tmp_path, NAME)
    for name in ("../../up", "", "0" * 39, "A" * 40, "0" * 63, "0" * 64 + "\n"):
        with pytest.raises(HubError, match="no hash"):
            repository.blob(name)
        with pytest.raises(HubError):
            Entry("a", 1, name, "0" * 40)


# Who may see it


def test_a_private_repository(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, private=True)
    with pytest.raises(HubError, match="or it is private and no token was sent.*HF_TOKEN"):
        fetch()
    with pytest.raises(HubError, match="the token that was sent may not see it"):
        fetch(token="hf_another")
    assert contents(fetch(token=TOKEN)) == wanted()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(force_download=True)
    with pytest.raises(HubError):
        fetch(token=False, force_download=True)


def test_the_token_s_file_is_read_as_the_client_reads_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    put(hub, private=True)
    with pytest.raises(HubError, match="token=True asks for the token that is kept here"):
        fetch(token=True)
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert fetch(token=True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with pytest.raises(HubError, match="no token was sent"):
        fetch(force_download=True)


def test_the_token_goes_to_no_other_host(hub: HubServer) -> None:
    put(hub, private=True)
    fetch(token=TOKEN)
    elsewhere = [one for one in hub.log if one.on_cdn]
    assert elsewhere and not any("authorization" in one.headers for one in elsewhere)
    at_home = [one for one in hub.log if not one.on_cdn]
    assert all(one.headers["authorization"] == f"Bearer {TOKEN}" for one in at_home)
    back = f"{hub.endpoint}/{NAME}/resolve/main/config.json"
    hub.fault("/cdn/", "redirect", to=back)
    with pytest.raises(HubError):  # it went away, and comes back without the token
        fetch(token=TOKEN, force_download=True)
    assert "authorization" not in hub.asked("resolve/main/config.json")[-1].headers


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Request(token="hf_secret"))


def test_a_gated_repository(hub: HubServer) -> None:
    put(hub, gated=True)
    with pytest.raises(HubError, match=f"gated.*{hub.endpoint}/{NAME}"):
        fetch()
    assert contents(fetch(token=TOKEN)) == wanted()


def test_an_unknown_repository_and_revision(hub: HubServer) -> None:
    with pytest.raises(HubError, match="owner/model is not on"):
        fetch()
    put(hub)
    with pytest.raises(HubError, match="has no branch, tag or commit 'v9'"):
        fetch(revision="v9")
    with pytest.raises(HubError, match="has no branch, tag or commit"):
        fetch(revision="0" * 40)


def test_a_file_that_is_gone(hub: HubServer) -> None:
    put(hub)
    missing = {"X-Error-Code": "EntryNotFound"}
    hub.fault("resolve/.*/vocab.txt", "status", code=404, headers=missing)
    with pytest.raises(HubError, match="does not have .*vocab.txt"):
        fetch()


# Mirrors


def test_a_mirror_is_an_endpoint_or_a_directory(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(MIRRORS, f"{tmp_path / 'absent'}:{hub.endpoint}/:{tmp_path / 'other'}")
    assert contents(fetch(token=TOKEN)) == wanted()
    assert not any("authorization" in one.headers for one in hub.log), "it is the hub's token"
    monkeypatch.setenv(MIRRORS, "")
    source = Source(NAME, mirrors=(hub.endpoint,))
    assert find(source, Request(cache_dir=tmp_path / "2"), select)
    with pytest.raises(HubError, match="there is no connection"):
        find(source, Request(cache_dir=tmp_path / "3"), select, hub_only=True)


# Faults


def test_no_network(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    directory = fetch()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == directory, "what is cached is taken as it is"
    with pytest.raises(HubError) as caught:
        find(Source("owner/other"), Request(), select)
    said = str(caught.value)
    for part in (
        f"the hub cache in {tmp_path / 'cache'} (nothing of owner/other)",
        "http://127.0.0.1:9/api/models/owner/other",
        "there is no connection",
        "hf download owner/other",
        "opened without one",
    ):
        assert part in said
    with pytest.raises(HubError, match="no connection"):
        fetch(force_download=True)


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1", "http://[", "http://x:y"])
def test_an_endpoint_that_is_none(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError):
        fetch()


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_ENDPOINT", "http://["), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"), ("HF_ENDPOINT", "ftp://x")],
)
def test_an_environment_that_the_client_cannot_be_imported_with(name: str, value: str) -> None:
    program = (
        "from offramp import HubError\n"
        "from offramp.hub.names import Request, Source, find\n"
        "try:\n"
        "    find(Source('owner/name'), Request(), list)\n"
        "except HubError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, name: value}
    said = subprocess.check_output(command, env=environment, text=True)
    assert "HF_" in said or "address" in said


@pytest.mark.parametrize("where", ["revision/main", "/tree/", "resolve/.*config", "/cdn/"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"code": 500}),
        ("status", {"code": 503, "times": 3}),
        ("status", {"code": 429, "headers": {"Retry-After": "7"}}),
        ("drop", {}),
        ("truncate", {}),
        ("truncate", {"times": 2}),
    ],
)
def test_a_passing_fault_is_waited_for(
    hub: HubServer, pauses: list[float], where: str, kind: str, options: dict[str, Any]
) -> None:
    put(hub)
    hub.fault(where, kind, **options)
    assert contents(fetch()) == wanted()
    assert len(pauses) == options.get("times", 1)
    if options.get("code") == 429:
        assert pauses == [7]


@pytest.mark.parametrize("where", ["revision/main", "/tree/", "resolve/.*config", "/cdn/"])
def test_a_lasting_fault_is_said(hub: HubServer, tmp_path: Path, where: str) -> None:
    put(hub)
    hub.fault(where, "status", code=503, times=1000)
    with pytest.raises(HubError, match="could not be fetched: it answers 503"):
        fetch()
    assert len(hub.asked(where)) == 5


def test_a_long_wait_is_not_waited(hub: HubServer, pauses: list[float]) -> None:
    put(hub)
    hub.fault("revision", "status", code=429, headers={"Retry-After": "3600"})
    with pytest.raises(HubError, match="says to wait 3600 seconds"):
        fetch()
    assert not pauses


def test_silence(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.fault("/cdn/", "stall", seconds=1)
    hub.fault("revision", "slow", seconds=1)
    assert contents(fetch()) == wanted()
    assert [one.headers.get("range") for one in hub.asked("/cdn/")] == [None, "bytes=100000-"]
    hub.fault("revision", "slow", seconds=1, times=100)
    with pytest.raises(HubError, match="silent for too long .ReadTimeout"):
        fetch(force_download=True)


def test_a_body_that_breaks_off_goes_on_where_it_ended(hub: HubServer) -> None:
    put(hub)
    hub.fault("/cdn/", "truncate", times=3)
    assert contents(fetch())["model.safetensors"] == WEIGHTS
    asked = [one.headers.get("range") for one in hub.asked("/cdn/")]
    assert asked == [None, "bytes=100000-", "bytes=150000-", "bytes=175000-"]


@pytest.mark.parametrize("what", ["unreachable", "interrupted"])
def test_what_came_before_the_network_went_is_not_fetched_again(
    hub: HubServer, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub)
    hub.fault("/cdn/", "truncate")
    hub.fault("/cdn/", "status", times=1000)
    error: type[BaseException] = HubError
    if what == "interrupted":
        error = KeyboardInterrupt

        def interrupted(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(client, "pause", interrupted)
    with pytest.raises(error):
        fetch()
    hub.faults.clear()
    assert contents(fetch())["model.safetensors"] == WEIGHTS
    assert hub.asked("/cdn/")[-1].headers["range"] == "bytes=100000-"
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


@pytest.mark.parametrize(
    "headers",
    [{"Content-Range": "bytes 0-9/10"}, {"Content-Range": None}, {"Content-Range": "bytes 1-2/3"}],
)
def test_another_part_than_asked_for_is_not_taken(
    hub: HubServer, headers: dict[str, str | None]
) -> None:
    put(hub)
    hub.fault("/cdn/", "truncate")
    hub.fault("/cdn/", "header", headers=headers)
    assert contents(fetch())["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("kind", ["corrupt", "short", "long"])
@pytest.mark.parametrize("where", ["resolve/.*/vocab.txt", "/cdn/"])
def test_a_damaged_file_is_fetched_once_more(
    hub: HubServer, tmp_path: Path, kind: str, where: str
) -> None:
    put(hub)
    hub.fault(where, kind)
    assert contents(fetch()) == wanted()
    hub.faults.clear()
    hub.fault(where, kind, times=2)
    with pytest.raises(HubError, match="came damaged .* twice"):
        fetch(cache_dir=tmp_path / "second")
    name = "vocab.txt" if "vocab" in where else "model.safetensors"
    assert not any(path.endswith((name, "incomplete")) for path in all_files(tmp_path / "second"))
    assert len(hub.asked(where)) == 4


@pytest.mark.parametrize("path", ["vocab.txt", "model.safetensors"])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-Repo-Commit": "../../up"}, "X-Repo-Commit is '../../up'"),
        ({"X-Repo-Commit": "0" * 40}, "X-Repo-Commit is '0000"),
        ({"ETag": '"../../../up"', "X-Linked-Etag": None}, "no hash of 40 or 64"),
        ({"ETag": '"%s"' % ("A" * 40), "X-Linked-Etag": None}, "no hash of 40 or 64"),
        ({"ETag": '"%s"' % ("0" * 40), "X-Linked-Etag": None}, "ETag is 0000"),
        ({"X-Linked-Size": "3"}, "X-Linked-Size is '3'"),
        ({"Content-Encoding": "gzip"}, None),
    ],
)
def test_what_the_hub_says_of_a_file_must_agree(
    hub: HubServer, tmp_path: Path, path: str, headers: dict[str, str | None], message: str | None
) -> None:
    put(hub)
    if message is None and path == "model.safetensors":
        pytest.skip("the redirect's encoding does not matter")
    hub.fault(f"resolve/.*/{path}", "header", headers=headers, times=2)
    with pytest.raises(HubError, match=message or "another encoding"):
        fetch()
    assert contents(fetch()) == wanted()
    assert not (tmp_path / "up").exists() and [path.name for path in tmp_path.iterdir()] == [
        "cache"
    ]


@pytest.mark.parametrize("commit", ["../../../up", "main", "", "0" * 39, "A" * 40, None, 7])
def test_a_commit_that_is_none(hub: HubServer, tmp_path: Path, commit: object) -> None:
    put(hub)
    hub.fault("revision", "body", content=json.dumps({"sha": commit}))
    with pytest.raises(HubError, match="names no commit of 40 hexadecimal digits"):
        fetch()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("where", ["revision", "/tree/"])
@pytest.mark.parametrize("content", ["[1", '"text"', "3", "null", "[" * 100_000])
def test_json_that_is_none(hub: HubServer, where: str, content: str) -> None:
    put(hub)
    hub.fault(where, "body", content=content, times=100)
    with pytest.raises(HubError):
        fetch()


@pytest.mark.parametrize("where", ["revision", "/tree/", "resolve/.*vocab", "/cdn/"])
@pytest.mark.parametrize("kind", ["html", "loop"])
def test_a_page_in_place_of_an_answer(hub: HubServer, where: str, kind: str) -> None:
    put(hub)
    hub.fault(where, kind, times=100)
    with pytest.raises(HubError, match="without end" if kind == "loop" else "text/html|damaged"):
        fetch()


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//[", "http://127.0.0.1:x/"]
)
def test_a_redirect_to_what_is_not_asked(hub: HubServer, to: str) -> None:
    put(hub)
    hub.fault("resolve/.*vocab", "redirect", to=to)
    with pytest.raises(HubError):
        fetch()


def test_there_is_no_room(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        HubError, match="There is no room in .*cache.*200,000 bytes, free are 1,000"
    ):
        fetch()
    monkeypatch.undo()


def test_the_disk_is_full_half_way(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub)
    whole = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, block: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = whole(path, mode, *args, **kwargs)
        return Full(file) if path.suffix == ".incomplete" and "w" in mode else file

    with monkeypatch.context() as full:
        full.setattr(Path, "open", open_full)
        with pytest.raises(HubError, match="There is no room"):
            fetch()
    assert not any(path.endswith("incomplete") for path in all_files(tmp_path))
    assert contents(fetch()) == wanted()


def test_a_cache_that_may_not_be_written_to(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub)
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="cannot be written to.*cache_dir="):
        fetch(cache_dir=tmp_path / "file")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "mkdir", refuse)
        with pytest.raises(HubError, match="cannot be written to"):
            fetch()
    fetch()
    with monkeypatch.context() as read_only:  # what is there may be read all the same
        read_only.setattr(Path, "mkdir", refuse)
        assert contents(fetch(local_files_only=True)) == wanted()


def test_a_cached_file_that_may_not_be_read(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub)
    directory = fetch()
    shutil.rmtree(directory.parents[1] / ".offramp")  # none was verified, so they are to be read

    def refuse(*_: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as unreadable:
        unreadable.setattr("offramp.hub.cache.file_hash", refuse)
        with pytest.raises(HubError, match="cannot be read .Permission denied"):
            fetch(local_files_only=True)
    assert fetch(local_files_only=True) == directory


@pytest.mark.parametrize("name", ["../x", "a b", "https://x.org/a", "owner/na me", "a/b/c", "-a/b"])
def test_malformed_ids(hub: HubServer, name: str) -> None:
    from offramp import ModelNotFoundError
    from offramp.models.names import locate

    for hub_only in (False, True):
        with pytest.raises(ModelNotFoundError if not hub_only else HubError):
            locate(name, Request(), select, {}, hub_only=hub_only)
    assert not hub.log


def test_a_name_with_its_revision(hub: HubServer) -> None:
    from offramp import ConfigError
    from offramp.models.names import locate

    repository = put(hub)
    repository.refs["v2"] = repository.refs["main"]
    repository.commit({"config.json": b'{"v": 2}'}, "v2")
    place = locate(f"{NAME}@v2", Request(), select, {})
    assert (place.directory / "config.json").read_bytes() == b'{"v": 2}'
    with pytest.raises(ConfigError, match="two revisions"):
        locate(f"{NAME}@v2", Request("v3"), select, {})


def test_a_cache_without_links(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub)
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    directory = fetch()
    assert contents(directory) == wanted()
    assert not any(path.is_symlink() for path in directory.iterdir())
    before = len(hub.asked("resolve"))
    assert fetch(local_files_only=True) == directory and fetch() == directory
    (directory / "vocab.txt").write_text("[PAD]\n[UNX]\n")
    assert contents(fetch()) == wanted(), "what was changed there is put right"
    assert len(hub.asked("resolve")) == before


def test_a_branch_below_another_is_fetched(hub: HubServer) -> None:
    """As files v and v/2 cannot both be: the second is not remembered for when there is no net."""
    repository = put(hub)
    repository.refs["v"] = repository.refs["v/2"] = repository.refs["main"]
    assert contents(fetch(revision="v")) == contents(fetch(revision="v/2")) == wanted()


def test_errors_say_what_may_be_done_about_them(hub: HubServer) -> None:
    from offramp.hub.download import download

    with pytest.raises(RefusedError):
        download(hub.endpoint, NAME, Request(), select)
    with pytest.raises(UnreachableError):
        download("http://127.0.0.1:9", NAME, Request(), select)
    assert issubclass(UnreachableError, HubError) and issubclass(RefusedError, HubError)
