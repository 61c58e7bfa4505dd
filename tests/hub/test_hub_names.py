"""A name to a directory: which places are asked, in which order, and what is said in the end."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import offramp.hub.names as names
from offramp import ConfigError, HubError, ModelNotFoundError
from offramp.hub.names import Request, Source, check_sha256, find, is_hub_name, is_inside

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def has_weights(listing: Iterable[str]) -> list[str]:
    return [name for name in listing if name == "w"]


def holding(directory: Path, text: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "w").write_text(text)
    return directory


def cached(cache: Path, hub_id: str, ref: str = "main") -> Path:
    """A repository as the hub's client lays it out in its cache."""
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / ref).write_text(COMMIT)
    return holding(repository / "snapshots" / COMMIT)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, `carrier_of_models`, with a folder `model`."""
    root = tmp_path / "site"
    (root / "carrier_of_models").mkdir(parents=True)
    (root / "carrier_of_models" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(root))
    names.is_available.__globals__["_find"].cache_clear()
    yield holding(root / "carrier_of_models" / "model")
    sys.modules.pop("carrier_of_models", None)
    names.is_available.__globals__["_find"].cache_clear()


def test_package_then_cache_then_mirrors(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(tmp_path / "cache", "owner/name")
    mirror = holding(tmp_path / "mirror")
    listed = holding(tmp_path / "all" / "owner" / "name")
    monkeypatch.setenv(names.MIRRORS, f"{tmp_path / 'absent'}:{tmp_path / 'all'}")
    source = Source("owner/name", "carrier_of_models/model", (str(mirror),))
    request = Request(cache_dir=tmp_path / "cache")
    for place in (package, snapshot, mirror, listed):
        assert find(source, request, has_weights) == place
        (place / "w").unlink()  # a directory without what is wanted is passed over
    with pytest.raises(HubError, match="carrier_of_models; the hub cache.*mirror"):
        find(source, request, has_weights)


def test_hub_only_asks_the_cache_alone(package: Path, tmp_path: Path) -> None:
    source = Source("owner/name", "carrier_of_models/model", (str(holding(tmp_path / "mirror")),))
    request = Request(cache_dir=tmp_path / "cache")
    with pytest.raises(HubError, match="hf download owner/name --cache-dir"):
        find(source, request, has_weights, hub_only=True)
    snapshot = cached(tmp_path / "cache", "owner/name")
    assert find(source, request, has_weights, hub_only=True) == snapshot


def test_a_revision_is_that_of_the_cache(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "owner/name", ref="v2")
    at_v2 = Request("v2", cache_dir=tmp_path)
    assert find(Source("owner/name"), at_v2, has_weights) == snapshot
    assert find(Source("owner/name"), Request(COMMIT, cache_dir=tmp_path), has_weights) == snapshot
    with pytest.raises(HubError, match="--revision v3"):
        find(Source("owner/name"), Request("v3", cache_dir=tmp_path), has_weights)


@pytest.mark.parametrize("revision", ["v2", "0" * 40])
def test_a_directory_is_of_no_other_revision(
    revision: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mirror = holding(tmp_path / "mirror")
    source = Source("owner/name", "carrier_of_models/model", (str(mirror),))
    main = Request("main", cache_dir=tmp_path / "cache")
    assert find(source, main, has_weights) == package
    with pytest.raises(HubError, match=r"mirror \(a directory has no revisions\)"):
        find(source, Request(revision, cache_dir=tmp_path / "cache"), has_weights)


def test_a_subfolder_is_where_the_files_are(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "owner/name")
    inner = holding(snapshot / "inner")
    (snapshot / "w").unlink()
    request = Request(subfolder="inner", cache_dir=tmp_path)
    assert find(Source("owner/name"), request, has_weights) == inner


def test_a_download_is_asked_last_but_for_a_branch_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = holding(tmp_path / "fetched")
    asked: list[tuple[str, Request]] = []

    def download(hub_id: str, request: Request, select: names.Select) -> Path:
        asked.append((hub_id, request))
        assert select(["x", "w"]) == ["w"]
        return fetched

    monkeypatch.setattr(names, "download", download)
    request = Request("main", cache_dir=tmp_path)
    assert find(Source("owner/name"), request, has_weights) == fetched
    assert asked == [("owner/name", request)]
    with pytest.raises(HubError, match="the hub was not asked: local_files_only=True"):
        find(Source("owner/name"), Request(local_files_only=True), has_weights)
    mirror = holding(tmp_path / "mirror")
    assert find(Source("owner/name", mirrors=(str(mirror),)), request, has_weights) == mirror
    snapshot = cached(tmp_path, "owner/name")
    at_commit = Request(COMMIT, cache_dir=tmp_path)
    alone = Request(cache_dir=tmp_path, local_files_only=True)
    assert find(Source("owner/name"), at_commit, has_weights) == snapshot
    assert find(Source("owner/name"), alone, has_weights) == snapshot
    assert len(asked) == 1
    assert find(Source("owner/name"), request, has_weights) == fetched  # main may have moved
    forced = Request(cache_dir=tmp_path, force_download=True)
    assert find(Source("owner/name"), forced, has_weights) == fetched
    assert len(asked) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"revision": "../main"},
        {"revision": ""},
        {"revision": 3},
        {"revision": "a b"},
        {"subfolder": "../up"},
        {"subfolder": "/etc"},
        {"subfolder": "a/../../b"},
        {"subfolder": ""},
        {"force_download": True, "local_files_only": True},
        {"token": 3},
        {"token": ""},
        {"token": "hf_\nX: y"},
    ],
)
def test_a_request_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Request(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("owner/name", True),
        ("bert-base-uncased", True),
        ("owner/name.v1_2-x", True),
        ("../name", False),
        ("owner/../name", False),
        ("owner/na me", False),
        ("owner/name/more", False),
        ("https://x.org/a", False),
        ("/abs", False),
        ("owner--x/name", False),
        ("", False),
        ("x" * 200, False),
    ],
)
def test_what_a_hub_name_is(name: str, good: bool) -> None:
    assert is_hub_name(name) is good


def test_what_lies_inside() -> None:
    assert is_inside("a/b")
    assert not any(map(is_inside, ("", "/a", "..", "a/../b", "a\0")))


def test_a_checksum_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights" * 1000)
    check_sha256(path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(HubError, match="damaged"):
        check_sha256(path, "0" * 64)
    assert issubclass(HubError, ModelNotFoundError)
