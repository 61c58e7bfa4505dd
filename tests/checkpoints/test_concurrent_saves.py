"""Four savers and four readers of one directory: each load is of one save."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, seconds: float, *options: str) -> dict[str, object]:
    script = Path(__file__).with_name("savers_and_readers.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), "--seconds", str(seconds), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("options", [(), ("--without-exchange",)])
def test_readers_never_have_two_saves_in_one_model(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    told = run(tmp_path, 8, *options)
    assert told.keys() == {"saves", "reads", "left"}, told
    assert told["left"] == []
    assert isinstance(told["reads"], int)
    assert told["reads"] > 10


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ten_minutes_of_it(tmp_path: Path) -> None:
    told = run(tmp_path, 600)
    print(told)
    assert told.keys() == {"saves", "reads", "left"}, told
