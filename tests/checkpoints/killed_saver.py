"""Saves over and over, for who kills it or makes its system calls fail; run by fault_injection.py.

One import of torch serves for all: each save is that of a forked child, which waits until it is
told to go on. Requests and answers are lines of JSON:

    {"do": "reset", "case": NAME, "target": PATH}   save the old model, as any later save would
    {"do": "fork", "case": NAME, "target": PATH}    a child that will save the new one: its number
    {"do": "go"}                                    let it; how it ended, and what it raised
    {"do": "look", "case": NAME, "target": PATH}    "old", "new", "absent", or what is wrong
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

import offramp
from offramp.checkpoints import directory as directories
from offramp.storage.files import write_file
from offramp.storage.steady import interrupted
from offramp.training.checkpoint import Checkpoint, RunFolder

Save = Callable[[Path], None]


class Case(NamedTuple):
    """What is there before, None for nothing; what is saved over it; and all that a load gives."""

    old: Save | None
    new: Save
    exchanges: bool = True
    seen: Callable[[Path], str] | None = None


def saving(value: float, width: int, **options: Any) -> Save:
    """`save_pretrained` of a model of this width whose every weight is `value`."""
    model = make(width, value)
    return lambda target: model.save_pretrained(target, **options)


def converting(value: float, width: int, to: str) -> Save:
    """`convert` of such a model with exits."""
    model = offramp.add_exits(make(width, value), pooler="first", hidden=width)
    source = Path(tempfile.mkdtemp()) / "source"
    fill(model, value)
    model.save_pretrained(source)
    return lambda target: void(offramp.convert(source, target, to))


def classifying(value: float, width: int, more: int) -> Save:
    """`Classifier.save`, whose tokenizer has more words or fewer."""
    words = Path(tempfile.mkdtemp())
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(more))]
    (words / "vocab.txt").write_text("\n".join(listed))
    (words / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = offramp.Tokenizer.from_pretrained(words, max_length=8)
    return offramp.Classifier(make(width, value), tokenizer).save


def stopping_at(step: int) -> Save:
    """What a training run writes beside its output."""
    checkpoint = Checkpoint(
        {"step": step}, {"model/weight": torch.full((100 * step,), float(step))}
    )
    return lambda target: RunFolder(target, {}).write(checkpoint)


def seen_checkpoint(target: Path) -> str:
    """As a run that goes on reads it."""
    directories.recover(target / "checkpoint")
    found = RunFolder(target, {}).read()
    assert found is not None
    return f"{found.values} {found.tensors['model/weight'].tolist()}"


def make(width: int, value: float) -> offramp.BertForSequenceClassification:
    config = offramp.BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    model = offramp.BertForSequenceClassification(config)
    fill(model, value)
    return model


def fill(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def void(_: object) -> None:
    return None


def cases() -> dict[str, Case]:
    shards = saving(1.0, 8, max_shard_size="1KB")
    fewer = saving(2.0, 16, max_shard_size="6KB")
    one, other = saving(1.0, 8), saving(2.0, 16)
    return {
        "new": Case(None, other),
        "one file": Case(one, other),
        "over more shards": Case(shards, other),
        "sharded": Case(shards, fewer),
        "without exchange": Case(shards, fewer, exchanges=False),
        "classifier": Case(classifying(1.0, 8, more=0), classifying(2.0, 16, more=1)),
        "checkpoint of a run": Case(stopping_at(1), stopping_at(2), seen=seen_checkpoint),
        "file": Case(
            lambda target: write_file(target, "old"),
            lambda target: write_file(target, "new" * 5000),
            seen=lambda target: target.read_text(encoding="utf-8"),
        ),
        "paddle": Case(shards, converting(2.0, 16, "paddle")),
        "research": Case(converting(1.0, 8, "paddle"), converting(2.0, 16, "research")),
    }


def main() -> None:
    known = cases()
    expected = {name: states(case) for name, case in known.items()}
    child = go = said = -1
    print(json.dumps(sorted(known)), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        case = known[asked["case"]] if "case" in asked else None
        target = Path(asked.get("target", "."))
        answer: Any = "done"
        if asked["do"] == "go":
            with suppress(BrokenPipeError):  # killed in its wait
                os.write(go, b"g")
            _, status = os.waitpid(child, 0)
            os.close(go)
            with open(said, encoding="utf-8") as file:  # a handle
                answer = [os.waitstatus_to_exitcode(status), file.read()]
        elif case is None:
            raise ValueError(line)
        elif asked["do"] == "reset":
            if case.old is None:
                shutil.rmtree(target, ignore_errors=True)
                directories.recover(target)
            else:
                case.old(target)
        elif asked["do"] == "fork":
            wait, go = os.pipe()
            said, tell = os.pipe()
            child = os.fork()
            if child == 0:
                save(case, target, wait, tell)
            os.close(wait)
            os.close(tell)
            answer = child
        elif asked["do"] == "look":
            answer = look(case, target, expected[asked["case"]])
        print(json.dumps(answer), flush=True)


def save(case: Case, target: Path, wait: int, tell: int) -> None:
    """What the child does, and all that it does."""
    code, message = 0, ""
    waits = True
    while waits:
        with suppress(OSError):  # the wait itself, failed
            waits = not os.read(wait, 1)
    try:
        if not case.exchanges:
            directories._exchanged = lambda a, b: False  # type: ignore[assignment]
        case.new(target)
    except BaseException as error:
        code = 3 if isinstance(error, offramp.OfframpError) else 4
        message = f"{type(error).__name__}: {error}"
    try:
        os.write(tell, message.encode())
    finally:
        os._exit(code)


def states(case: Case) -> dict[str, str]:
    """{what it looks like: which it is}."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        found = {"absent": "old" if case.old is None else "absent"}
        if case.old is not None:
            case.old(place)
            found[(case.seen or seen)(place)] = "old"
        case.new(place)
        found[(case.seen or seen)(place)] = "new"
        assert len(found) == 2 + (case.old is not None)
        return found


def look(case: Case, target: Path, known: dict[str, str]) -> str:
    try:
        found = (case.seen or seen)(target)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return known.get(found, f"neither: {found}")


def seen(target: Path) -> str:
    """All that a load gives, bit by bit, and the files that there are."""
    place = interrupted(target) or target
    if not place.exists():
        return "absent"
    model = offramp.BertForSequenceClassification.from_pretrained(target)
    digest = hashlib.sha256(model.config.to_json().encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    if (place / "tokenizer.json").exists():
        digest.update(offramp.load(target).tokenizer.to_json().encode())
    files = sorted(path.name for path in place.iterdir())
    if not offramp.verify(place).ok:
        return f"not sound: {offramp.verify(place)}"
    return f"{digest.hexdigest()} {files}"


if __name__ == "__main__":
    main()
