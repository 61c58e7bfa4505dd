"""Faults of the hub by a seed: what goes wrong, when and how often, and what must hold yet.

Time passes twenty times as fast: pauses, and how long one waits for an answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_repository import ONE_FILE, SHARDED, contents, select, wanted

from hub_server import HubServer, Repository, git_sha1
from offramp import HubError
from offramp.hub.names import Request, Source, find
from offramp.hub.upload import Target, upload

READS = ("revision/", "/tree/", "resolve/", "resolve/.*config", "resolve/.*(saf|index)", "/cdn/")
WRITES = ("repos/create", "preupload", "objects/batch", "PUT /lfs/", "verify", "commit/", "commit/")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"code": 500}),
    ("status", {"code": 503}),
    ("status", {"code": 429, "headers": {"Retry-After": "1"}}),
    ("status", {"code": 429}),
    ("status", {"code": 404}),
    ("status", {"code": 403}),
    ("drop", {}),
    ("truncate", {}),
    ("stall", {"seconds": 0.3}),
    ("slow", {"seconds": 0.3}),
    ("html", {}),
    ("loop", {}),
    ("lost", {}),
    ("short", {}),
    ("long", {}),
    ("corrupt", {}),
    ("header", {"headers": {"X-Repo-Commit": "../../../../up"}}),
    ("header", {"headers": {"X-Repo-Commit": "0" * 40}}),
    ("header", {"headers": {"ETag": '"../../../../up"', "X-Linked-Etag": '"../../../../up"'}}),
    ("header", {"headers": {"ETag": '"%s"' % ("0" * 64), "X-Linked-Etag": None}}),
    ("header", {"headers": {"X-Linked-Size": "1"}}),
    ("header", {"headers": {"Content-Range": "bytes 0-1/2"}}),
    ("header", {"headers": {"Content-Encoding": "gzip"}}),
    ("redirect", {"to": "/elsewhere"}),
    ("redirect", {"to": "file:///etc/passwd"}),
    ("body", {"content": "null"}),
    ("body", {"content": '{"sha": "../../../up"}'}),
    (
        "body",
        {
            "content": json.dumps(
                [
                    {
                        "type": "file",
                        "path": "../../../config.json",
                        "size": 2,
                        "oid": git_sha1(b"{}"),
                    }
                ]
            )
        },
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to."""

    seed: int
    kind: str
    failed: str | None
    """The error's message, where there was one: a HubError."""
    faults: int
    """That came into effect."""


def play(seed: int, hub: HubServer, root: Path) -> Outcome:
    """One schedule; AssertionError, or what was raised, for what must not be."""
    rng = random.Random(seed)
    kind = rng.choice(["download", "download", "upload", "request"])
    files = rng.choice([ONE_FILE, SHARDED])
    files = {**files, "config.json": b'{"seed": %d}' % seed}
    name = f"owner/model{seed}"
    hub.faults.clear()
    hub.log.clear()
    hub.page = rng.choice([2, 1000])
    act = _download if kind == "download" else _upload
    again = act(hub, name, files, root, kind)
    for _ in range(rng.randint(1, 4)):
        where = rng.choice(READS if kind == "download" else (*READS[:2], *WRITES))
        fault, options = rng.choice(KINDS)
        times = rng.choice([1, 1, 1, 2, 3, 1000])
        hub.fault(where, fault, times=times, skip=rng.choice([0, 0, 0, 1, 2]), **options)
    failed = None
    try:
        again()
    except HubError as error:
        failed = str(error)
    count = sum(min(max(fault.hits - fault.skip, 0), fault.times) for fault in hub.faults)
    check_cache(root, may_go_on=failed is not None)
    hub.faults.clear()
    again()  # nothing that stayed behind is in the way
    check_cache(root)
    return Outcome(seed, kind, failed, count)


def _download(
    hub: HubServer, name: str, files: dict[str, bytes], root: Path, kind: str
) -> Callable[[], None]:
    hub.repository(name, files)
    rights = wanted(files)

    def fetch() -> None:
        found = contents(find(Source(name), Request(cache_dir=root / "cache"), select))
        assert found == rights, "wrong bytes were loaded"

    return fetch


def _upload(
    hub: HubServer, name: str, files: dict[str, bytes], root: Path, kind: str
) -> Callable[[], None]:
    repository = hub.repository(name)
    source = root / "source"
    source.mkdir()
    for path, content in files.items():
        (source / path).write_bytes(content)
    sent = {path: source / path for path in files}

    def send() -> None:
        before = mine(repository, files)
        try:
            url = upload(sent, Target(name, create_pr=kind == "request"), "message")
        finally:
            made = mine(repository, files) - before
            assert len(made) <= 1, "one upload made two commits"
            assert kind == "request" or len(mine(repository, files)) <= 1
        oid = url.rpartition("/")[2]
        assert oid in mine(repository, files)
        there = repository.commits[oid].files
        assert {path: there[path][1] for path in files} == files, "wrong bytes were committed"
        assert kind == "request" or repository.refs["main"] == oid

    return send


def mine(repository: Repository, files: dict[str, bytes]) -> set[str]:
    """The commits that an upload made."""
    return {c.oid for c in repository.commits.values() if files.keys() <= c.files.keys()}


def check_cache(root: Path, *, may_go_on: bool = False) -> None:
    """Nothing lies outside the cache, and each blob is what it is called.

    Nothing half is there, unless the next attempt `may_go_on` with it.
    """
    assert {path.name for path in root.iterdir()} <= {"cache", "source"}
    for path in (root / "cache").rglob("*"):
        assert path.resolve().is_relative_to(root / "cache"), f"{path} leads out"
        assert path.suffix != ".tmp" and (may_go_on or path.suffix != ".incomplete")
        if path.parent.name == "blobs" and path.suffix != ".incomplete":
            content = path.read_bytes()
            assert path.name in (git_sha1(content), hashlib.sha256(content).hexdigest())
