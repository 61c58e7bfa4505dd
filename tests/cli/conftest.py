"""`offramp ...`, through the entry point that the script calls."""

import contextlib
import sys
from pathlib import Path

import pytest
from invoking import Done, Run

from offramp.cli import main


@pytest.fixture
def run(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """A command, run in the folder that the test's file calls `place`, if it has one."""
    with contextlib.suppress(pytest.FixtureLookupError):
        monkeypatch.chdir(request.getfixturevalue("place"))

    def run(*args: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["offramp", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        return Done(code, *capsys.readouterr())

    return run
