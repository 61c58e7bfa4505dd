"""Asking an endpoint: retries, redirects, and who is told the token.

Requests go through the session of huggingface_hub, so proxies, certificates and
`set_client_factory` hold here too. Redirects are followed by hand, because of the token: it is sent
to the endpoint's own scheme, host and port, and after a redirect away from there to nobody.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import loads as parse
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from offramp.errors import HubError, shown
from offramp.hub.cache import COMMIT, Entry, is_safe_path
from offramp.hub.settings import timeout

T = TypeVar("T")

ATTEMPTS = 5
"""How often a request is tried that brings nothing; one that brings bytes begins to count anew."""
_MOST_ATTEMPTS = 50
_WITHOUT_CONNECTION = 2
_LONGEST_PAUSE = 60.0
_MOST_REDIRECTS = 10
_LONGEST_ANSWER = 64 << 20  # bytes of JSON
_MOST_PAGES = 1000
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)

pause: Callable[[float], None] = time.sleep
"""How to wait, in seconds."""


class UnreachableError(HubError):
    """The endpoint did not answer, or said that it cannot now; later it may."""


class RefusedError(HubError):
    """The endpoint has no such repository, or shows it to others only."""


class RevisionError(HubError):
    """The repository has no such branch, tag or commit."""


class PassingError(Exception):
    """A fault that may be gone when the same is asked again."""

    def __init__(
        self, message: str, *, after: float | None = None, attempts: int = ATTEMPTS
    ) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the answer says to wait."""
        self.attempts = attempts


@dataclass
class Answer:
    """A response whose body is yet to be read, and what the endpoint itself said before it."""

    status: int
    headers: Mapping[str, str]
    stated: dict[str, str]
    """Headers of the endpoint's own responses on the way; not those of where it redirects to."""
    blocks: Iterator[bytes]


@dataclass(frozen=True)
class Endpoint:
    """One hub, asked with one token: a text, None for the client's own, or False for none."""

    url: str
    token: str | bool | None = field(default=None, repr=False)

    # ------------------------------------------------------------------ what it has

    def commit_of(self, hub_id: str, revision: str) -> str:
        """The commit that a branch, tag or pull request is now."""
        path = f"/api/models/{hub_id}/revision/{quote(revision, safe='')}"
        values = self.json(self.url + path, hub_id, revision)[0]
        commit = values.get("sha") if isinstance(values, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise HubError(
                f"{self.url} names no commit of 40 hexadecimal digits for {hub_id} at {revision}; "
                f"got {shown(repr(commit), 100)}. It is no hub, or something changes its answers."
            )
        return commit

    def listing(self, hub_id: str, commit: str) -> dict[str, Entry]:
        """The files of a commit. What has a path that leads out is not among them."""
        url: str | None = f"{self.url}/api/models/{hub_id}/tree/{commit}?recursive=true"
        found: dict[str, Entry] = {}
        for _ in range(_MOST_PAGES):
            if url is None:
                return found
            values, link = self.json(url, hub_id, commit)
            if not isinstance(values, list):
                raise HubError(f"{self.url} gives no list of the files of {hub_id}.")
            for one in values:
                entry = _entry(one, hub_id)
                if entry is None:
                    continue
                if found.setdefault(entry.path, entry) != entry:
                    raise HubError(f"{self.url} lists two files {entry.path!r} of {hub_id}.")
            url = None if link is None else urljoin(url, link)
            if url is not None and origin(url) != origin(self.url):
                raise HubError(f"The listing of {hub_id} goes on at {url}, which is elsewhere.")
        raise HubError(f"The listing of {hub_id} has no end.")

    def file_url(self, hub_id: str, commit: str, path: str) -> str:
        """Where a file's content is."""
        return f"{self.url}/{hub_id}/resolve/{commit}/{quote(path)}"

    def json(self, url: str, hub_id: str, revision: str) -> tuple[Any, str | None]:
        """An answer's JSON, and the address of the page after it."""

        def ask() -> tuple[Any, str | None]:
            with self.get(url, hub_id, revision) as answer:
                text = bytearray()
                for block in answer.blocks:
                    text += block
                    if len(text) > _LONGEST_ANSWER:
                        raise HubError(f"{url} answers without end.")
                check_length(answer.headers, len(text))
                try:
                    values = parse(text)
                except (ValueError, RecursionError) as error:
                    kind = answer.headers.get("content-type", "something")
                    raise PassingError(f"it answers {shown(kind, 80)} where JSON is due") from error
                return values, _next_page(answer.headers)

        return retried(ask, url)

    # ------------------------------------------------------------------ one request

    @contextmanager
    def get(self, url: str, hub_id: str, revision: str, begin: int = 0) -> Iterator[Answer]:
        """A sound answer of a GET, of the bytes from `begin` on if the server will.

        Raises PassingError for what may go better another time, inside the block too, and HubError
        for what will not.
        """
        session = session_for(self.url)
        token = _token(self.token)
        headers = {"Accept-Encoding": "identity", "User-Agent": _user_agent()}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        stated: dict[str, str] = {}
        away = False
        here = url
        try:
            for _ in range(_MOST_REDIRECTS):
                away = away or origin(here) != origin(self.url)
                secret = {} if away or token is None else {"Authorization": f"Bearer {token}"}
                with session.stream(
                    "GET",
                    here,
                    headers=headers | secret,
                    timeout=timeout(),
                    follow_redirects=False,
                ) as response:
                    if not away:
                        stated.update(response.headers)
                    if response.status_code not in _REDIRECTS:
                        self._check_status(response, hub_id, revision, token)
                        said = dict(response.headers)
                        yield Answer(response.status_code, said, stated, response.iter_raw())
                        return
                    here = _led_to(here, response.headers.get("location", ""))
        except Exception as error:
            if (fault := fault_of(error, url)) is None:
                raise
            raise fault from error
        raise HubError(
            f"{url} leads from one address to the next without end, at last to {shown(here, 300)}. "
            "Check HF_ENDPOINT, and what stands between here and there."
        )

    def _check_status(self, response: Any, hub_id: str, revision: str, token: str | None) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        if status in _PASSING:
            raise PassingError(f"it answers {status}", after=_retry_after(response.headers))
        code = response.headers.get("x-error-code", "")
        said = shown(response.headers.get("x-error-message", ""), 200).rstrip(".")
        if code == "RevisionNotFound":
            raise RevisionError(
                f"{hub_id} on {self.url} has no branch, tag or commit {revision!r}. Leave out the "
                "revision for main, or look at the repository's branches."
            )
        if code == "EntryNotFound":
            raise HubError(f"{hub_id} at {revision} does not have {response.url.path!r}.")
        if code == "GatedRepo":
            raise RefusedError(
                f"{hub_id} is gated: its owner decides who may have it. Ask for access at "
                f"{self.url}/{hub_id}, then {_HOW_TO_LOG_IN}."
            )
        if code == "RepoNotFound" or status in (401, 404):
            sent = "the token that was sent may not see it" if token else "no token was sent"
            raise RefusedError(
                f"{hub_id} is not on {self.url}, or it is private and {sent}. Check the name; for "
                f"a private repository {_HOW_TO_LOG_IN}."
            )
        if status == 403:
            raise RefusedError(f"{self.url} refuses {hub_id}: {said or 'forbidden'}.")
        if status == 416:
            raise PassingError("it has no such range")
        raise HubError(f"{response.url} answers {status} ({said or 'without a reason'}).")


_HOW_TO_LOG_IN = "log in (hf auth login), set HF_TOKEN, or pass token="


def retried(ask: Callable[[], T], url: str, done: Callable[[], int] = lambda: 0) -> T:
    """What `ask` gives, tried again after pauses while it raises PassingError.

    `done` counts the bytes that have come; an attempt that brings some begins the count anew.
    Raises UnreachableError when that was often enough.
    """
    attempt, before = 0, done()
    for _ in range(_MOST_ATTEMPTS):
        try:
            return ask()
        except PassingError as fault:
            last = fault
        attempt = 1 if done() > before else attempt + 1
        before = done()
        if attempt >= last.attempts:
            break
        if (last.after or 0) > _LONGEST_PAUSE:
            raise UnreachableError(f"{url}: {last}, and says to wait {last.after:.0f} seconds.")
        backoff = min(0.5 * 2**attempt, 8.0) * random.uniform(0.5, 1)
        pause(backoff if last.after is None else last.after)
    raise UnreachableError(f"{url} could not be fetched: {last}.") from last.__cause__


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: who is asked. HubError for what is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise HubError(f"{shown(url, 300)!r} is no address: {error}.") from error
    return parts.scheme, (parts.hostname or "").lower(), port


def _led_to(url: str, location: str) -> str:
    """Where a redirect leads; HubError for what cannot be asked, or less safely than before."""
    try:
        target = urljoin(url, location)
    except ValueError as error:
        raise HubError(f"{url} leads to {shown(location, 300)!r}, which is no address.") from error
    if origin(target)[0] not in ("https", origin(url)[0]):
        raise HubError(f"{url} leads to {shown(target, 300)}, which is not safe to ask.")
    return target


def check_length(headers: Mapping[str, str], received: int) -> None:
    """PassingError where the body has another length than its head says."""
    stated = headers.get("content-length")
    if stated is not None and stated.isdecimal() and int(stated) != received:
        raise PassingError(f"{received} of {stated} bytes came")


def fault_of(error: Exception, url: str) -> Exception | None:
    """What this module raises for an error of the session's; None for another's error."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    http = _library()
    if isinstance(error, OfflineModeIsEnabled):
        said = "huggingface_hub was imported with HF_HUB_OFFLINE set"
        return UnreachableError(f"{url} was not asked: {said}.")
    if isinstance(error, (http.UnsupportedProtocol, http.InvalidURL)):
        return HubError(f"{url} is no address ({error}). Check HF_ENDPOINT.")
    if isinstance(error, http.ConnectError):
        return PassingError(f"there is no connection ({error})", attempts=_WITHOUT_CONNECTION)
    if isinstance(error, http.TimeoutException):
        return PassingError(f"it was silent for too long ({type(error).__name__})")
    if isinstance(error, http.HTTPError):
        return PassingError(f"the connection broke ({type(error).__name__}: {error})")
    return None


def session_for(url: str) -> Any:
    """The client's session; HubError for what is no address, or where it cannot be imported."""
    origin(url)
    try:
        from huggingface_hub import get_session
    except (ImportError, ValueError) as error:
        raise HubError(
            f"huggingface_hub cannot be imported: {error}. Check HF_ENDPOINT and HF_HUB_..."
        ) from error
    return get_session()


def _library() -> ModuleType:
    """What the session is made of: httpx2, or httpx of before huggingface_hub 2."""
    from huggingface_hub.errors import HfHubHTTPError

    base = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    return sys.modules[base.__module__.partition(".")[0]]


def _token(given: str | bool | None) -> str | None:
    """What to send: the caller's, or the client's own from HF_TOKEN or its file."""
    from huggingface_hub.errors import LocalTokenNotFoundError
    from huggingface_hub.utils import get_token_to_send  # type: ignore[attr-defined]

    try:
        return get_token_to_send(given)
    except LocalTokenNotFoundError as error:
        raise HubError(
            "token=True asks for the token that is kept here, and there is none. Log in (hf auth "
            "login) or set HF_TOKEN."
        ) from error


def _user_agent() -> str:
    import huggingface_hub

    import offramp

    return f"offramp/{offramp.__version__}; hf_hub/{huggingface_hub.__version__}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    stated = headers.get("retry-after", "").strip()
    return float(stated) if stated.isdecimal() and len(stated) < 10 else None


def _next_page(headers: Mapping[str, str]) -> str | None:
    """The address in a Link header that says rel="next"; RFC 8288."""
    for link in headers.get("link", "").split(","):
        address, _, about = link.partition(";")
        if 'rel="next"' in about.replace(" ", ""):
            return address.strip().strip("<>")
    return None


def _entry(values: Any, hub_id: str) -> Entry | None:
    """A file of a listing; None for a directory, and for a path that leads out."""
    try:
        if values["type"] != "file" or not is_safe_path(values["path"]):
            return None
        large = values.get("lfs")
        size, name = (
            (values["size"], values["oid"]) if large is None else (large["size"], large["oid"])
        )
        return Entry(values["path"], size, name, values["oid"], values.get("xetHash"))
    except (KeyError, TypeError, AttributeError) as error:
        raise HubError(
            f"The listing of {hub_id} is not sound: {shown(repr(values), 200)}."
        ) from error
