"""A directory's files become one commit of a repository on the hub, and not two.

The client's `HfApi.create_commit` does the work, with the commit that the branch had before as the
parent: a branch that has moved since takes no commit. Where the answer to it is lost, the branch,
or the list of pull requests, is looked at before anything is sent again.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from offramp.backends import requires_backends
from offramp.errors import ConfigError, HubError, shown
from offramp.hub import client
from offramp.hub.cache import COMMIT, Entry, file_hash, is_safe_path
from offramp.hub.client import (
    Endpoint,
    PassingError,
    RefusedError,
    RevisionError,
    UnreachableError,
    fault_of,
    retried,
    session_for,
)
from offramp.hub.names import Request, is_hub_name
from offramp.hub.settings import endpoint, is_offline

T = TypeVar("T")

CARD = "README.md"
SILENCE = 300.0
"""Seconds that the hub may take to answer while it is written to."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_STALE = 412
_SHA256 = "0" * 64
_SECRET = re.compile(
    r"\.env(\..*)?|.*\.env|\.netrc|_netrc|\.npmrc|\.pypirc|\.htpasswd|\.git-credentials|\.dockercfg"
    r"|id_(rsa|dsa|ecdsa|ed25519)(_sk)?(\..*)?|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg)"
    r"|((hf|access|auth|api|bearer|refresh|user|bot|gh|github|write)[_.-]?)?tokens?"
    r"(\.(txt|json|ya?ml|toml|ini|cfg|conf))?"
    r"|(.*[_.-])?(secrets?|passwords?|passwd|credentials?|api[_-]?keys?)"
    r"(\.(txt|json|ya?ml|toml|ini|cfg|conf))?"
    r"|kubeconfig|stored_tokens|service[_-]?account.*\.json",
    re.IGNORECASE,
)
_SECRET_FOLDERS = {".git", ".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure"}


@dataclass(frozen=True)
class Target:
    """Where a commit goes: a branch of a repository, or a pull request against it."""

    repo_id: str
    revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    token: str | bool | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError or HubError for what cannot be, before anything is asked."""
        if not isinstance(self.repo_id, str) or not is_hub_name(self.repo_id):
            raise HubError(
                f"{str(self.repo_id)[:200]!r} is no name on the hub; expected owner/name."
            )
        Request(revision=self.revision, token=self.token)  # which says what is wrong with them
        for name, allowed in (("private", (True, False, None)), ("create_pr", (True, False))):
            if not any(getattr(self, name) is value for value in allowed):
                raise ConfigError(f"{name} is one of {allowed}; got {getattr(self, name)!r}.")

    @property
    def branch(self) -> str:
        """What the commit is put on, or the pull request is against."""
        return self.revision or "main"


def upload(
    files: Mapping[str, Path],
    target: Target,
    message: str,
    description: str = "",
    replaces: Callable[[str], bool] = lambda path: False,
) -> str:
    """Commit files, by their paths in the repository, and return the commit's address.

    The repository is made if need be, and so is the branch, unless it is for a pull request. A
    README.md that is there stays as it is. Other files stay too, but those of which `replaces` says
    that these take their place are removed by the same commit. Files that look like secrets are
    refused. Raises HubError; for a revision that is a commit's id, and for an unknown one that a
    pull request is against, it is also the client's RevisionNotFoundError.
    """
    requires_backends("Uploading", "huggingface_hub")
    for path in files:
        if not is_safe_path(path) or looks_secret(path):
            raise HubError(f"{path!r} is not uploaded: it looks like a secret, or like no file.")
    if COMMIT.fullmatch(target.branch):
        raise revision_not_found(
            f"revision={target.branch!r} is a commit's id, and a commit is put on a branch. Pass "
            "the branch's name, or none for main."
        )
    if is_offline():
        raise UnreachableError("Nothing is uploaded while HF_HUB_OFFLINE is set; take it away.")
    return _Uploading(target).commit(files, message, description, replaces)


def looks_secret(path: str) -> bool:
    """Whether a path is one that keys, passwords or tokens are kept under."""
    parts = PurePosixPath(path).parts
    return bool(_SECRET_FOLDERS.intersection(parts)) or _SECRET.fullmatch(parts[-1]) is not None


def revision_not_found(message: str) -> HubError:
    """A HubError that is also huggingface_hub's RevisionNotFoundError."""
    error: HubError = _revision_not_found_class()(message)
    return error


@cache
def _revision_not_found_class() -> Any:
    from huggingface_hub.errors import RevisionNotFoundError

    class UnknownRevisionError(RevisionError, RevisionNotFoundError):
        """No such branch; nobody was asked, so there is no response."""

        def __init__(self, message: str) -> None:
            OSError.__init__(self, shown(message))
            vars(self).update(response=None, request_id=None, server_message=None)

        def __str__(self) -> str:
            return str(self.args[0])

        def __reduce_ex__(self, protocol: object) -> Any:
            return revision_not_found, (self.args[0],)

    return UnknownRevisionError


class _Uploading:
    """One upload, with all that has to be known to see whether it has happened."""

    def __init__(self, target: Target) -> None:
        session_for(endpoint())  # which says what is wrong with the environment
        from huggingface_hub import HfApi

        self._target = target
        self._hub = Endpoint(endpoint(), target.token)
        self._api = HfApi(endpoint=self._hub.url, token=target.token, library_name="offramp")
        self._repo_id = target.repo_id

    def commit(
        self,
        files: Mapping[str, Path],
        message: str,
        description: str,
        replaces: Callable[[str], bool],
    ) -> str:
        """The commit's address, once it is seen to be there."""
        target = self._target
        made = self._retried(
            lambda: self._api.create_repo(self._repo_id, private=target.private, exist_ok=True)
        )
        if "/" not in target.repo_id and is_hub_name(str(made.repo_id)):
            self._repo_id = str(made.repo_id)  # with its owner, who is known to the hub alone
        head = self._head()
        before = self._hub.listing(self._repo_id, head)
        sent = {p: file for p, file in files.items() if not (_is_card(p) and p in before)}
        removed = [p for p in before if p not in sent and not _is_card(p) and replaces(p)]
        wanted = _Wanted({p: _hashes(file) for p, file in sent.items()}, removed)
        pulls = self._pulls() if target.create_pr else {}
        landing = _Landing(self._hub, self._repo_id, target, head, wanted, pulls)
        oid = self._send(sent, removed, landing, message, description)
        if left_out := wanted.lacking(self._hub.listing(self._repo_id, oid)):
            raise HubError(
                f"{self._repo_id} has the commit {oid[:8]}, but not as it was sent: "
                f"{', '.join(left_out[:5])}. Look at the repository's .gitignore."
            )
        return landing.address(oid)

    def _send(
        self,
        sent: Mapping[str, Path],
        removed: Sequence[str],
        landing: _Landing,
        message: str,
        description: str,
    ) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        was_sent = False

        def send() -> str:
            nonlocal was_sent
            if was_sent and (oid := landing.look()) is not None:
                return oid
            operations: list[Any] = [
                *(CommitOperationDelete(path, is_folder=False) for path in removed),
                *(CommitOperationAdd(path, file) for path, file in sent.items()),
            ]
            was_sent = True
            with self._asking(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
                info = self._api.create_commit(
                    self._repo_id,
                    operations,
                    commit_message=message,
                    commit_description=description,
                    revision=self._target.branch,
                    create_pr=self._target.create_pr,
                    parent_commit=landing.head,
                )
                return str(info.oid)

        try:
            return retried(send, f"The commit to {self._hub.url}/{self._repo_id}")
        except UnreachableError:
            with suppress(UnreachableError):  # the last of the answers may be one that was lost
                if was_sent and (oid := landing.look()) is not None:
                    return oid
            raise

    def _head(self) -> str:
        """The commit that the branch has now; the branch is made if need be."""
        try:
            return self._hub.commit_of(self._repo_id, self._target.branch)
        except RevisionError as error:
            if self._target.create_pr:
                raise revision_not_found(
                    f"{self._repo_id} has no branch {self._target.branch!r} to make a pull request "
                    "against. Pass a branch that it has, or none for main."
                ) from error
        self._retried(
            lambda: self._api.create_branch(
                self._repo_id, branch=self._target.branch, exist_ok=True
            )
        )
        return self._hub.commit_of(self._repo_id, self._target.branch)

    def _pulls(self) -> dict[str, str]:
        return _pulls(self._hub, self._repo_id)

    def _retried(self, ask: Callable[[], T]) -> T:
        def asked() -> T:
            with self._asking():
                return ask()

        return retried(asked, f"{self._hub.url}/{self._repo_id}")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the client raises inside, as PassingError or HubError; it may not wait for ever."""
        session = session_for(self._hub.url)
        patience, session.timeout = session.timeout, SILENCE
        try:
            with _quiet():
                yield
        except Exception as error:
            if isinstance(error, (HubError, PassingError)):
                raise
            raise self._as_ours(error) from error
        finally:
            session.timeout = patience

    def _as_ours(self, error: BaseException) -> Exception:
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        if isinstance(error, RuntimeError) and error.__cause__ is not None:
            return self._as_ours(error.__cause__)  # of a file that was being sent
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error)
        if isinstance(error, LocalTokenNotFoundError):
            return HubError(f"token=True, and no token is kept here. {_LOG_IN}")
        if isinstance(error, Exception) and (fault := fault_of(error, self._hub.url)) is not None:
            return fault
        if isinstance(error, OSError):
            return HubError(f"A file cannot be read to be uploaded: {error}.")
        said = shown(f"{type(error).__name__}: {error}", 300)  # a page in place of JSON
        return PassingError(f"its answer makes no sense ({said})")

    def _refusal(self, error: Any) -> Exception:
        status = error.response.status_code
        said = shown(" ".join(str(error).split()), 400)
        if status in _PASSING or status == _STALE:
            return PassingError(f"it answers {status} ({said})")
        if status in (401, 403, 404):
            return RefusedError(
                f"{self._hub.url} does not let you write to {self._repo_id}: {said} {_LOG_IN}"
            )
        return HubError(f"{self._hub.url} refuses the upload to {self._repo_id}: {said}")


@contextmanager
def _quiet() -> Iterator[None]:
    """The client's bars are drawn into files and pipes too: not inside, unless it was told to."""
    from huggingface_hub import constants, utils

    client: Any = utils  # which does not say that it exports them
    told = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or client.are_progress_bars_disabled()
    if told or sys.stderr.isatty():
        yield
        return
    client.disable_progress_bars()
    try:
        yield
    finally:
        client.enable_progress_bars()


_LOG_IN = "Log in with a token that may write (hf auth login), set HF_TOKEN, or pass token=."


@dataclass(frozen=True)
class _Wanted:
    """How a repository is to be after a commit: files by their hashes, and files that are gone."""

    hashes: Mapping[str, tuple[str, str]]
    removed: Sequence[str]

    def lacking(self, listing: Mapping[str, Entry]) -> list[str]:
        """The paths at which a listing is not so."""
        wrong = [
            path
            for path, either in self.hashes.items()
            if path not in listing or listing[path].hash not in either
        ]
        return wrong + [path for path in self.removed if path in listing]


@dataclass(frozen=True)
class _Landing:
    """Tells whether a commit whose answer was lost has happened."""

    hub: Endpoint
    repo_id: str
    target: Target
    head: str
    wanted: _Wanted
    pulls: Mapping[str, str]
    """Those that were there before, and their commits."""

    def look(self) -> str | None:
        """The commit; None where it is not there, and the branch is as it was.

        Raises HubError for a branch that has moved by someone else's doing. A commit that is still
        on its way makes the one that is sent after it fail, on a branch; nothing holds two pull
        requests apart, so for those it is looked for several times.
        """
        for wait in (0.0, 2.0, 4.0) if self.target.create_pr else (0.0,):
            client.pause(wait)
            if (oid := self._found()) is not None:
                return oid
        return None

    def _found(self) -> str | None:
        if self.target.create_pr:
            now = _pulls(self.hub, self.repo_id)
            new = [oid for name, oid in now.items() if name not in self.pulls]
            if (oid := next(filter(self._is_there, new), None)) is not None:
                return oid
        head = self.hub.commit_of(self.repo_id, self.target.branch)
        if head == self.head:
            return None
        for oid in () if self.target.create_pr else self._since():
            if self._is_there(oid):
                return oid
        raise HubError(
            f"{self.target.branch} of {self.repo_id} has moved from {self.head[:8]} to {head[:8]} "
            "meanwhile, and nothing of this upload is there. Look at what came, and push again."
        )

    def address(self, oid: str) -> str:
        """Where people look at a commit."""
        return f"{self.hub.url}/{self.repo_id}/commit/{oid}"

    def _since(self) -> list[str]:
        """The branch's commits after the one that this is put on, oldest first."""
        revision = quote(self.target.branch, safe="")
        url = f"{self.hub.url}/api/models/{self.repo_id}/commits/{revision}"
        values, _ = self.hub.json(url, self.repo_id, self.target.branch)
        found: list[str] = []
        for one in values if isinstance(values, list) else []:
            oid = one.get("id") if isinstance(one, dict) else None
            if oid == self.head:
                break
            if isinstance(oid, str) and COMMIT.fullmatch(oid):
                found.append(oid)
        return found[::-1]

    def _is_there(self, oid: str) -> bool:
        return not self.wanted.lacking(self.hub.listing(self.repo_id, oid))


def _pulls(hub: Endpoint, repo_id: str) -> dict[str, str]:
    """The pull requests of a repository, and their commits."""
    url = f"{hub.url}/api/models/{repo_id}/refs?include_prs=1"
    values, _ = hub.json(url, repo_id, "main")
    listed = values.get("pullRequests") if isinstance(values, dict) else None
    try:
        found = {one["ref"]: one["targetCommit"] for one in listed or []}
    except (KeyError, TypeError) as error:
        raise HubError(f"{hub.url} gives no list of the pull requests of {repo_id}.") from error
    return {name: oid for name, oid in found.items() if COMMIT.fullmatch(str(oid))}


def _hashes(file: Path) -> tuple[str, str]:
    """What a listing may call a file: the hub decides which are large."""
    try:
        return file_hash(file, _SHA256), file_hash(file, "")
    except OSError as error:
        raise HubError(f"{file} cannot be read to be uploaded: {error}.") from error


def _is_card(path: str) -> bool:
    return PurePosixPath(path).name == CARD
