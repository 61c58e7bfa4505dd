"""A hub on this machine's loopback that huggingface_hub's own client talks to, with faults.

It has repositories with revisions, large objects (LFS), branches and pull requests, in memory.
Large files are handed out by a second origin, as the hub does it. Beside that it answers wrongly
when it is asked to: `HubServer.fault`.

The endpoints are those of https://huggingface.co/docs/hub/api as client 2.4.0 calls them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

LARGE = (".safetensors", ".bin", ".pdparams", ".model")
"""Files that become large objects, whatever their size."""
TOKEN = "hf_ofTheOwner"
"""What may see private repositories, and write."""


def git_sha1(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """What a repository held at one moment: {path: (is it large, the content)}."""

    oid: str
    files: Mapping[str, tuple[bool, bytes]]
    parent: str | None
    title: str


@dataclass
class Repository:
    """Commits by their ids, and names for some of them."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    ignored: tuple[str, ...] = ()
    """What its .gitignore has."""

    def commit(
        self,
        files: Mapping[str, bytes | None],
        ref: str = "main",
        title: str = "Change",
        large: Iterable[str] = (),
        parent: str | None = None,
    ) -> Commit:
        """A commit on top of a ref, or of `parent`; None removes a file."""
        parent = parent or self.refs.get(ref)
        now = dict(self.commits[parent].files) if parent else {}
        for path, content in files.items():
            if content is None:
                now.pop(path)
            else:
                now[path] = (path in large or path.endswith(LARGE), content)
        stamp = f"{parent} {len(self.commits)} {title} {sorted(now)} {time.time_ns()}"
        made = Commit(hashlib.sha1(stamp.encode()).hexdigest(), now, parent, title)
        self.commits[made.oid] = made
        self.refs[ref] = made.oid
        return made

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a pull request or a commit's id stands for."""
        return self.commits.get(self.refs.get(revision, revision))


@dataclass
class Fault:
    """What goes wrong with requests that `pattern` finds: `skip` of them not, then `times`."""

    pattern: re.Pattern[str]
    kind: str
    times: int
    skip: int
    options: dict[str, Any]
    hits: int = 0


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    on_cdn: bool


class HubServer:
    """The hub, from `with HubServer() as hub` on at `hub.endpoint`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[Asked] = []
        self.page = 1000
        """Entries of one page of a listing."""
        self._routes = Starlette(
            routes=[
                Route("/api/repos/create", self._create, methods=["POST"]),
                Route("/api/validate-yaml", self._validate_yaml, methods=["POST"]),
                Route("/api/whoami-v2", lambda _: JSONResponse({"name": "owner", "orgs": []})),
                Route("/lfs/{oid}", self._take_object, methods=["PUT"]),
                Route("/lfs/{oid}/verify", self._verify_object, methods=["POST"]),
                Route("/cdn/{oid}", self._object),
                Route("/{rest:path}", self._by_repository, methods=["GET", "HEAD", "POST"]),
            ]
        )

    # ------------------------------------------------------------------ for tests

    def repository(self, name: str, files: Mapping[str, bytes] | None = None) -> Repository:
        """A new repository, with one commit of these files."""
        made = self.repositories[name] = Repository()
        made.commit(files or {".gitattributes": b""}, title="initial commit")
        return made

    def fault(
        self, pattern: str, kind: str, times: int = 1, skip: int = 0, **options: Any
    ) -> Fault:
        """Let requests go wrong whose "METHOD /path" the pattern finds. The kinds:

        `status` (code, headers), `drop` (no answer), `slow` (seconds), `html`, `loop` (redirected
        to itself), `redirect` (to), `truncate` (the connection ends half way), `stall` (half of it,
        then silence for seconds), `short` and `long` (a sound answer of another length), `corrupt`
        (a byte is another), `header` (headers that are changed; None takes one away), `body`
        (another body), `lost` (done, and not answered).
        """
        made = Fault(re.compile(pattern), kind, times, skip, options)
        self.faults.append(made)
        return made

    def asked(self, pattern: str) -> list[Asked]:
        """The requests so far that the pattern finds."""
        found = re.compile(pattern)
        return [one for one in self.log if found.search(f"{one.method} {one.path}")]

    def __enter__(self) -> HubServer:
        sockets = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in sockets)
        config = uvicorn.Config(
            self, log_level="critical", lifespan="off", http="h11", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets)), daemon=True
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    # ------------------------------------------------------------------ faults

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, wrongly if that is its turn."""
        path = scope["path"] + (
            "?" + scope["query_string"].decode() if scope["query_string"] else ""
        )
        headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        on_cdn = headers.get("host", "") == self.cdn.removeprefix("http://")
        self.log.append(Asked(scope["method"], path, headers, on_cdn))
        fault = self._due(f"{scope['method']} {path}")
        if fault is None:
            await self._routes(scope, receive, send)
        elif not await self._instead(fault, scope, send):
            await self._changed(fault, scope, receive, send)

    def _due(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.pattern.search(request):
                fault.hits += 1
                if fault.skip < fault.hits <= fault.skip + fault.times:
                    return fault
        return None

    async def _instead(self, fault: Fault, scope: Any, send: Any) -> bool:
        """An answer in place of the right one, if the fault is such."""
        options, kind = fault.options, fault.kind
        if kind == "slow":
            await asyncio.sleep(options["seconds"])
            return False
        if kind == "drop":
            send.__self__.transport.abort()
            return True
        answers = {
            "status": lambda: Response(
                "gone wrong", options.get("code", 500), options.get("headers", {})
            ),
            "html": lambda: Response("<html>Please log in</html>", media_type="text/html"),
            "loop": lambda: RedirectResponse(scope["path"], 302),
            "redirect": lambda: RedirectResponse(options["to"], 302),
            "body": lambda: Response(options["content"], media_type="application/json"),
        }
        if kind not in answers:
            return False
        await answers[kind]()(scope, None, send)
        return True

    async def _changed(self, fault: Fault, scope: Any, receive: Any, send: Any) -> None:
        """The right answer, and what becomes of it."""
        start: dict[str, Any] = {}
        body = bytearray()

        async def keep(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._routes(scope, receive, keep)
        kind, transport = fault.kind, send.__self__.transport
        if kind == "lost":
            transport.abort()
            return
        headers = {key.decode().lower(): value.decode() for key, value in start["headers"]}
        whole = len(body)
        if kind == "corrupt" and body:
            body[len(body) // 2] ^= 1
        elif kind in ("short", "truncate", "stall"):
            del body[len(body) // 2 :]
        elif kind == "long":
            body.extend(b"more")
        elif kind == "header":
            headers.update({k.lower(): v for k, v in fault.options["headers"].items()})
        if "content-length" in headers and scope["method"] != "HEAD":
            headers["content-length"] = str(whole if kind in ("truncate", "stall") else len(body))
        start["headers"] = [(k.encode(), v.encode()) for k, v in headers.items() if v is not None]
        await send(start)
        breaks_off = kind in ("truncate", "stall")
        await send({"type": "http.response.body", "body": bytes(body), "more_body": breaks_off})
        if breaks_off:  # after what was sent has arrived
            await asyncio.sleep(fault.options.get("seconds", 0.02))
            transport.abort()

    # ------------------------------------------------------------------ answers

    async def _create(self, request: Request) -> Response:
        if (refused := self._no_writing(request)) is not None:
            return refused
        values = await request.json()
        owner = values.get("organization") or "owner"
        name = f"{owner}/{values['name']}"
        url = f"{self.endpoint}/{name}"
        if name in self.repositories:
            said = {"error": "You already created this model repo", "url": url}
            return JSONResponse(said, 409)
        private = values.get("visibility") == "private" or values.get("private") is True
        self.repository(name).private = private
        return JSONResponse({"url": url, "name": name})

    async def _validate_yaml(self, request: Request) -> Response:
        content = (await request.json())["content"]
        sound = not content.startswith("---") or content.count("\n---\n") >= 1
        errors = [] if sound else [{"message": "Invalid metadata"}]
        return JSONResponse({"errors": errors, "warnings": []}, 200 if sound else 400)

    async def _take_object(self, request: Request) -> Response:
        content = await request.body()
        self.objects[request.path_params["oid"]] = content
        return Response()

    async def _verify_object(self, request: Request) -> Response:
        oid = request.path_params["oid"]
        content = self.objects.get(oid, b"")
        if hashlib.sha256(content).hexdigest() == oid:
            return JSONResponse({})
        self.objects.pop(oid, None)
        return JSONResponse({"error": "Object is not what it should be"}, 500)

    async def _object(self, request: Request) -> Response:
        return _ranged(request, self.objects[request.path_params["oid"]], {"ETag": '"of-the-cdn"'})

    async def _by_repository(self, request: Request) -> Response:
        path = request.path_params["rest"]
        raw = request.scope["raw_path"].decode().partition("?")[0].lstrip("/")
        for pattern, answer in (
            (r"api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>.+)", self._preupload),
            (r"api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>.+)", self._commit),
            (r"api/models/(?P<name>[^/]+/[^/]+)/commits/(?P<revision>.+)", self._commits),
            (r"api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<revision>.+)", self._branch),
            (r"api/models/(?P<name>[^/]+/[^/]+)/refs", self._refs),
            (r"api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", self._tree),
            (r"api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", self._info),
            (r"api/models/(?P<name>[^/]+/[^/]+)", self._info),
            (r"(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, raw):
                named = {key: unquote(value) for key, value in found.groupdict().items()}
                repository = self.repositories.get(named["name"])
                if refused := self._refused(request, repository):
                    return refused
                writes = request.method == "POST"
                if writes and (refused := self._no_writing(request)) is not None:
                    return refused
                return await answer(request, repository, named)
        return _missing("RepoNotFound", f"Nothing at {path}")

    def _refused(self, request: Request, repository: Repository | None) -> Response | None:
        known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            if known:
                return _missing("RepoNotFound", "Repository not found")
            said = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            return JSONResponse({"error": "Invalid username or password."}, 401, said)
        if repository.gated and not known and "/resolve/" in request.url.path:
            said = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            return JSONResponse({"error": "Access is restricted"}, 403, said)
        return None

    def _no_writing(self, request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {TOKEN}":
            return None
        return JSONResponse({"error": "Invalid credentials"}, 401)

    async def _info(self, request: Request, repository: Repository, named: Any) -> Response:
        commit = repository.find(named.get("revision", "main"))
        if commit is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": path} for path in commit.files]
        values = {"id": named["name"], "modelId": named["name"], "sha": commit.oid, "tags": []}
        return JSONResponse({**values, "private": repository.private, "siblings": siblings})

    async def _tree(self, request: Request, repository: Repository, named: Any) -> Response:
        commit = repository.find(named["revision"])
        if commit is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        folders = {path.rpartition("/")[0] for path in commit.files} - {""}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            for folder in sorted(folders)
        ]
        entries += [_entry(path, *commit.files[path]) for path in sorted(commit.files)]
        begin = int(request.query_params.get("cursor", 0))
        headers = {}
        if begin + self.page < len(entries):
            here = f"{self.endpoint}{request.url.path}?recursive=true&cursor={begin + self.page}"
            headers["Link"] = f'<{here}>; rel="next"'
        return JSONResponse(entries[begin : begin + self.page], headers=headers)

    async def _refs(self, request: Request, repository: Repository, named: Any) -> Response:
        def listed(pulls: bool) -> list[dict[str, str]]:
            prefix = "" if pulls else "refs/heads/"
            return [
                {"name": name, "ref": prefix + name, "targetCommit": oid}
                for name, oid in repository.refs.items()
                if name.startswith("refs/pr/") == pulls
            ]

        values = {"branches": listed(False), "converts": [], "tags": []}
        return JSONResponse({**values, "pullRequests": listed(True)})

    async def _commits(self, request: Request, repository: Repository, named: Any) -> Response:
        commit = repository.find(named["revision"])
        listed = []
        while commit is not None:
            one = {"id": commit.oid, "title": commit.title, "message": "", "authors": []}
            listed.append({**one, "date": "2026-01-01T00:00:00.000Z"})
            commit = repository.commits.get(commit.parent or "")
        return JSONResponse(listed)

    async def _branch(self, request: Request, repository: Repository, named: Any) -> Response:
        if named["revision"] in repository.refs:
            return JSONResponse({"error": "Reference already exists"}, 409)
        begin = (await request.json()).get("startingPoint", "main")
        commit = repository.find(begin)
        if commit is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        repository.refs[named["revision"]] = commit.oid
        return JSONResponse({})

    async def _preupload(self, request: Request, repository: Repository, named: Any) -> Response:
        commit = repository.find(named["revision"])
        if commit is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        answer = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            said = {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": file["path"] in repository.ignored,
            }
            if there := commit.files.get(file["path"]):
                said["oid"] = _object_id(*there)
            answer.append(said)
        return JSONResponse({"files": answer})

    async def _batch(self, request: Request, repository: Repository, named: Any) -> Response:
        answer = []
        for wanted in (await request.json())["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            said: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.objects:
                said["actions"] = {
                    "upload": {"href": f"{self.endpoint}/lfs/{oid}"},
                    "verify": {"href": f"{self.endpoint}/lfs/{oid}/verify"},
                }
            answer.append(said)
        return JSONResponse({"transfer": "basic", "objects": answer})

    async def _commit(self, request: Request, repository: Repository, named: Any) -> Response:
        onto = repository.refs.get(named["revision"])
        if onto is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        files: dict[str, bytes | None] = {}
        large: list[str] = []
        header: dict[str, Any] = {}
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return JSONResponse({"error": "LFS object is not here"}, 400)
                files[value["path"]] = self.objects[value["oid"]]
                large.append(value["path"])
            elif item["key"] == "deletedFile":
                files[value["path"]] = None
        if header.get("parentCommit") not in (None, onto):
            return JSONResponse({"error": "A commit has happened since"}, 412)
        pulled = request.query_params.get("create_pr") == "1"
        ref, pull = named["revision"], 0
        if pulled:
            pull = sum(name.startswith("refs/pr/") for name in repository.refs) + 1
            ref = f"refs/pr/{pull}"
        made = repository.commit(files, ref, header["summary"], large, parent=onto)
        url = f"{self.endpoint}/{named['name']}"
        answer: dict[str, Any] = {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{url}/commit/{made.oid}",
            "hookOutput": "",
        }
        if pulled:
            answer["pullRequestUrl"] = f"{url}/discussions/{pull}"
        return JSONResponse(answer)

    async def _resolve(self, request: Request, repository: Repository, named: Any) -> Response:
        commit = repository.find(named["revision"])
        if commit is None:
            return _missing("RevisionNotFound", "Invalid rev id")
        headers = {"X-Repo-Commit": commit.oid}
        if named["file"] not in commit.files:
            said = {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Not found"}
            return JSONResponse({"error": "Entry not found"}, 404, said)
        is_large, content = commit.files[named["file"]]
        oid = _object_id(is_large, content)
        headers["ETag"] = f'"{oid}"'
        if not is_large:
            return _ranged(request, content, headers)
        self.objects[oid] = content
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return RedirectResponse(f"{self.cdn}/cdn/{oid}", 302, headers)


def _object_id(is_large: bool, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large else git_sha1(content)


def _entry(path: str, is_large: bool, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if not is_large:
        return {**entry, "oid": git_sha1(content)}
    oid = hashlib.sha256(content).hexdigest()
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    ).encode()
    lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
    return {**entry, "oid": git_sha1(pointer), "lfs": lfs}


def _ranged(request: Request, content: bytes, headers: Mapping[str, str]) -> Response:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Response(content, headers={**headers, "Accept-Ranges": "bytes"})
    begin, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
    if begin >= len(content):
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    of = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
    return Response(content[begin : end + 1], 206, {**headers, **of})


def _missing(code: str, message: str) -> Response:
    return JSONResponse({"error": message}, 404, {"X-Error-Code": code, "X-Error-Message": message})
