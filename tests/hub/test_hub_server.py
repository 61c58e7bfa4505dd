"""The hub of the tests is one: huggingface_hub's own client, as it is, finds its way about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hub_server import TOKEN, HubServer

PROGRAM = """
import os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download, upload_folder
from huggingface_hub.errors import (
    EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError,
    RevisionNotFoundError,
)

folder, name, api = Path(sys.argv[1]), "owner/model", HfApi()
api.create_repo(name)
assert api.create_repo(name, exist_ok=True).repo_id == name
try:
    api.create_repo(name)
except HfHubHTTPError as error:
    assert error.response.status_code == 409

def same(snapshot):
    files = sorted(p.relative_to(snapshot) for p in Path(snapshot).rglob("*") if p.is_file())
    return {str(p): Path(snapshot, p).read_bytes() for p in files}

there = same(folder)
first = upload_folder(repo_id=name, folder_path=folder)
assert same(snapshot_download(name)) == {".gitattributes": b"", **there}

add = lambda: [CommitOperationAdd("new.txt", b"new")]
pull = api.create_commit(name, operations=add(), commit_message="Add", create_pr=True)
assert pull.pr_revision == "refs/pr/1", pull
(request,) = api.list_repo_refs(name, include_pull_requests=True).pull_requests
assert request.target_commit == pull.oid
assert "new.txt" in same(snapshot_download(name, revision="refs/pr/1"))
assert "new.txt" not in same(snapshot_download(name))

def onto_first(operations):
    return api.create_commit(
        name, operations=operations, commit_message="Add", parent_commit=first.oid
    )

second = onto_first(add())
assert api.model_info(name).sha == second.oid
try:
    onto_first([CommitOperationAdd("a", b"b")])
except HfHubHTTPError as error:
    assert error.response.status_code == 412
else:
    raise AssertionError("a stale parent was taken")
api.create_branch(name, branch="v2")
assert [one.title for one in api.list_repo_commits(name)][0] == "Add"

for error, call in (
    (RepositoryNotFoundError, lambda: api.model_info("owner/none")),
    (RevisionNotFoundError, lambda: api.model_info(name, revision="none")),
    (EntryNotFoundError, lambda: api.hf_hub_download(name, "none.txt")),
):
    try:
        call()
    except error:
        pass
    else:
        raise AssertionError(error)
"""


def test_the_client_as_it_is_can_use_it(tmp_path: Path) -> None:
    files = {
        "README.md": b"---\ntags: [x]\n---\n# About\n",
        "config.json": b"{}",
        "inner/model.safetensors": os.urandom(3000),
        "model.safetensors": os.urandom(1000),
    }
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with HubServer() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "folder")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert hub.asked("PUT /lfs/") and hub.asked("POST /lfs/.*/verify")
        assert hub.asked("HEAD .*/resolve/") and hub.asked("GET /cdn/")
