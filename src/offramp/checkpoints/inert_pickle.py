"""Pickles read as data: a stack machine that builds records of calls and never makes one.

Only the instructions that weights need are known. A call stays a `Call` with the name of what would
be called; who reads the result decides by that name what it stands for. So a file can do nothing:
https://docs.python.org/3/library/pickletools.html lists the instructions.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from offramp.errors import CheckpointError

MOST_STEPS = 5_000_000
"""Instructions of one file: a model of a thousand tensors has some ten thousand."""

_MARK = object()


@dataclass(frozen=True)
class Name:
    """A global that the file names, such as "numpy.ndarray"; nothing is imported."""

    name: str


@dataclass
class Call:
    """A call that the file asks for, and the state that it would give the result."""

    of: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Stored:
    """What lies outside the pickle, under this key."""

    key: Any


def read_pickle(path: Path) -> Any:
    """The file's value, of dictionaries, lists, tuples, texts, bytes, numbers, `Name` and `Call`.

    Raises CheckpointError for a file that is no pickle, uses another instruction or another kind of
    key than a text, or is longer than `MOST_STEPS`.
    """
    try:
        with path.open("rb") as file:
            return parse_pickle(file, str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def parse_pickle(file: IO[bytes], where: str, *, stored: bool = False) -> Any:
    """`read_pickle` of an open file. With `stored` it may point outside itself: `Stored`."""
    machine = _Machine(stored)
    place = 0
    try:
        for steps, (opcode, arg, position) in enumerate(pickletools.genops(file)):
            place = position or 0
            if steps > MOST_STEPS:
                raise ValueError(f"more than {MOST_STEPS} instructions")
            machine.step(opcode.name, arg)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{where} is not a file of weights, at byte {place}: {type(error).__name__}: {error}."
        ) from error
    return machine.result


class _Machine:
    """The stack and the memo of one file."""

    def __init__(self, stored: bool) -> None:
        self.may_point_outside = stored
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def step(self, name: str, arg: Any) -> None:
        if name in _LITERALS:
            self.stack.append(arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, arg)
        else:
            raise ValueError(f"the instruction {name} is not one that weights need")

    def pop(self, kind: type | tuple[type, ...] = object) -> Any:
        value = self.stack.pop()
        if value is _MARK or not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} where it cannot be")
        return value

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def tuple_of(self, size: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(size))[::-1])

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError(f"a {type(key).__name__} as a key; names are texts")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def named(self) -> None:
        last, module = self.pop(str), self.pop(str)
        self.stack.append(Name(f"{module}.{last}"))

    def call(self) -> None:
        args, of = self.pop(tuple), self.pop(Name)
        ordered = of.name == "collections.OrderedDict" and not args
        self.stack.append({} if ordered else Call(of.name, args))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # torch hangs its modules' versions on the dictionary
            raise ValueError("a state for what was not called")

    def point_outside(self) -> None:
        if not self.may_point_outside:
            raise ValueError("it points outside itself")
        self.stack.append(Stored(self.pop(tuple)))

    def stop(self) -> None:
        self.result = self.pop()
        if self.stack:
            raise ValueError("values are left over")


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, arg: None,
    "FRAME": lambda machine, arg: None,
    "TUPLE": lambda machine, arg: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, arg: machine.tuple_of(1),
    "TUPLE2": lambda machine, arg: machine.tuple_of(2),
    "TUPLE3": lambda machine, arg: machine.tuple_of(3),
    "SETITEM": lambda machine, arg: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, arg: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, arg: machine.append([machine.pop()]),
    "APPENDS": lambda machine, arg: machine.append(machine.pop_to_mark()),
    "MEMOIZE": lambda machine, arg: machine.remember(len(machine.memo)),
    "BINPUT": lambda machine, arg: machine.remember(arg),
    "LONG_BINPUT": lambda machine, arg: machine.remember(arg),
    "BINGET": lambda machine, arg: machine.stack.append(machine.memo[arg]),
    "LONG_BINGET": lambda machine, arg: machine.stack.append(machine.memo[arg]),
    "GLOBAL": lambda machine, arg: machine.stack.append(Name(arg.replace(" ", ".", 1))),
    "STACK_GLOBAL": lambda machine, arg: machine.named(),
    "REDUCE": lambda machine, arg: machine.call(),
    "BUILD": lambda machine, arg: machine.build(),
    "BINPERSID": lambda machine, arg: machine.point_outside(),
    "STOP": lambda machine, arg: machine.stop(),
}
