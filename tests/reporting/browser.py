"""Chromium over its debugging pipe: what a page looks like and does, without another package.

The protocol is JSON messages that end in a NUL, on the file descriptors 3 (to it) and 4 (from it):
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60  # seconds for an answer; a busy machine takes some
FLAGS = (
    "--headless",
    "--no-sandbox",  # which a container's root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# The descriptors are set in a process between: doing it after a fork of this one is not safe where
# it has threads.
START = """
import fcntl, os, sys
ours = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, fd in zip((3, 4), ours):
    os.dup2(fd, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser's command, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser with one tab."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to_it, self._from_it, self._rest = to_it, from_it, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events on the way are kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == number:
                assert "error" not in said, (method, said["error"])
                result: dict[str, Any] = said["result"]
                return result
            if "method" in said:
                self.events.append(said)

    def open(
        self, page: Path, *, width: int = 1280, scheme: str = "light", media: str = ""
    ) -> None:
        """Load a file in a window of that width, and wait until it is there."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        said = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        said = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(said["data"])

    def pdf(self) -> bytes:
        """The page as it is printed, with backgrounds left out as browsers do by default."""
        said = self.ask("Page.printToPDF", preferCSSPageSize=True, generateTaggedPDF=True)
        return base64.b64decode(said["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from_it], [], [], PATIENCE)[0], "Chromium says nothing."
            piece = os.read(self._from_it, 1 << 16)
            assert piece, "Chromium ended."
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        said: dict[str, Any] = json.loads(message)
        return said


@contextmanager
def running(command: str, profile: Path) -> Iterator[Browser]:
    """A browser that is ended afterwards; `profile` is an empty directory for its files."""
    ours = os.pipe(), os.pipe()
    (its_in, to_it), (from_it, its_out) = ours
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(its_in), str(its_out), command, *FLAGS,
         f"--user-data-dir={profile}"],
        pass_fds=(its_in, its_out),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(to_it, from_it)
    finally:
        os.close(to_it)  # which is how it is told to end
        os.close(from_it)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
