"""Every row of the table of attacks ends as it must, in a process that lives to open the next."""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from attack_kit import (
    LOADS,
    MARKER,
    SIZES,
    Outcome,
    Sound,
    made_sound,
    save,
    sound_paddle,
    sound_safetensors,
    sound_torch,
    written,
)
from attacks import ATTACKS, GROUPS

import offramp

MOST_MEMORY = 64 << 20
"""Bytes that opening may take beyond the file's size."""
LONGEST_MESSAGE = 5_000
"""Letters of an error: what a file says is told of, and not repeated whatever its length."""
LONGEST = 20.0
"""Seconds after which a file that is still being opened has hung the process."""
Answer: TypeAlias = dict[str, Any]


class Opener:
    """The opening process: one for all attacks, and another where one has ended it."""

    def __init__(self, workplace: Path, warm: list[Path]) -> None:
        self.workplace, self.warm = workplace, warm
        self.process: subprocess.Popen[str] | None = None

    def open(self, path: Path, options: Mapping[str, Any]) -> Answer:
        if self.process is None:
            self._start()
        return self._ask({"path": str(path), "options": dict(options), "warm": False})

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        script = Path(__file__).with_name("opening_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.workplace,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"},
        )
        for path in self.warm:  # what is imported late is no attack's doing
            self._ask({"path": str(path), "options": {}, "warm": True}, LONGEST + 60)

    def _ask(self, request: dict[str, Any], longest: float = LONGEST) -> Answer:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        in_time, _, _ = select.select([process.stdout], [], [], longest)
        line = process.stdout.readline() if in_time else ""
        if line:
            return dict(json.loads(line))
        if in_time:
            came = f"the end of its process ({process.wait()})"
        else:
            came = f"no end within {longest:.0f} s"
        self.close()
        return {"errors": [came], "message": "", "did": []}


@pytest.fixture(scope="module")
def sound() -> Sound:
    model = offramp.BertModel(offramp.BertConfig(**SIZES))
    return made_sound({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


@pytest.fixture(scope="module")
def came_of(
    sound: Sound, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[Answer]]]:
    """What came of an attack by its name: an answer for each directory that it writes."""
    root = tmp_path_factory.mktemp("attacks")
    warm = []
    for make, file in (
        (sound_safetensors, "model.safetensors"),
        (sound_torch, "pytorch_model.bin"),
        (sound_paddle, "model_state.pdparams"),
    ):
        warm.append(root / "sound" / file.partition(".")[2])
        warm[-1].mkdir(parents=True)
        list(written(save(make, file), warm[-1], sound))
    opener = Opener(root, warm)

    @functools.cache
    def answers(name: str) -> list[Answer]:
        attack, found = ATTACKS[name], []
        directory = root / "attack" / "checkpoint"
        directory.mkdir(parents=True)
        try:
            for word in written(attack.build, directory, sound):
                path = Path(os.path.normpath(directory / attack.opens))
                answer = opener.open(path, attack.options)
                answer |= {"word": word, "directory": str(directory), "size": size_of(directory)}
                if (root / MARKER).exists():
                    answer["did"].append("made the marker")
                    remove(root / MARKER)
                found.append(answer)
                if opener.process is None:
                    break
        finally:
            shutil.rmtree(root / "attack")
        assert found, "an attack that writes nothing"
        return found

    yield answers
    opener.close()


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory, holes in them not counted."""
    found = (os.lstat(path) for path in directory.rglob("*"))
    return sum(min(s.st_size, 512 * s.st_blocks) for s in found if stat.S_ISREG(s.st_mode))


def faults(outcome: Outcome, answer: Answer, digest: str) -> Iterator[str]:
    """In what an answer is not the outcome."""
    errors = answer["errors"]
    if answer.get("memory", 0) > answer["size"] + MOST_MEMORY:
        yield f"it took {answer['memory']:,} bytes of memory, and has {answer['size']:,}"
    if len(answer.get("message", "")) > LONGEST_MESSAGE:
        yield f"its message has {len(answer['message']):,} letters"
    if answer["did"]:
        yield f"it did what reading does not: {answer['did']}"
    if not errors:
        if not outcome.loads:
            yield "it was loaded"
        elif answer["digest"] != digest:
            yield "it loaded other numbers than the file's"
    elif outcome.kinds and "CheckpointError" in errors:
        kind, file, offset = (answer[name] for name in ("kind", "file", "offset"))
        if kind not in outcome.kinds:
            yield f"its kind is {kind!r}, not one of {sorted(outcome.kinds)}: {answer['message']}"
        if file is not None and kind != "outside" and not within(file, answer["directory"]):
            yield f"its file is {file!r}, which is not in {answer['directory']}"
        if offset is not None and (type(offset) is not int or offset < 0):
            yield f"its offset is {offset!r}, which is no byte's"
    elif not (outcome.not_found and "ModelNotFoundError" in errors):
        yield f"it ended in {errors[0]}: {answer['message']}"


def within(file: object, directory: str) -> bool:
    return isinstance(file, str) and Path(file).is_relative_to(directory)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, came_of: Callable[[str], list[Answer]], sound: Sound) -> None:
    found = [
        f"{answer['word']}: {fault}"
        for answer in came_of(name)
        for fault in faults(ATTACKS[name].outcome, answer, sound.digest)
    ]
    assert not found, f"{len(found)} faults\n" + "\n".join(fault[:500] for fault in found[:10])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells of peaks")
def test_memory_is_measured(came_of: Callable[[str], list[Answer]]) -> None:
    (answer,) = came_of("safetensors: as written by hand")
    assert "memory" in answer


def test_the_table() -> None:
    """No name twice in a group; as many rows as were promised, some of each outcome in each."""
    assert sum(map(len, GROUPS.values())) == len(ATTACKS) >= 250
    for rows in GROUPS.values():
        assert {row.outcome == LOADS for row in rows} == {True, False}


def test_the_process_is_watched(tmp_path: Path) -> None:
    """Else a payload that runs would pass for one that does not."""
    script = (
        "import os, sys, pickle; sys.path.insert(0, sys.argv[1]); import opening_process as o\n"
        "watch = o.Watch(); watch.found = []; os.system('true'); open('x', 'w').close()\n"
        "pickle.loads(b'cos\\nsystem\\n.'); print(*(e.split()[0] for e in watch.found))"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script, here], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["os.system", "open", "pickle.find_class"], done.stderr
