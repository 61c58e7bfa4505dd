"""Pickles read as data: a stack machine that builds records of calls and never makes one.

Only the instructions that weights need are known. A call stays a `Call` with the name of what would
be called; who reads the result decides by that name what it stands for. So a file can do nothing,
and takes little memory: long bytes and texts stay where they are in the mapped file.
https://docs.python.org/3/library/pickletools.html lists the instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from offramp.checkpoints.checked_file import UnsoundError
from offramp.checkpoints.content import Array

MOST_STEPS = 300_000
"""Instructions of one pickle: a model of a thousand tensors has some forty thousand."""
_SHORT = 1024
"""Bytes of a text that is read as such: names are short, contents of an array need not be."""
_MOST_TEXT = 8_000_000
_LONGEST_LINE = 128
_LONGEST_NUMBER = 16  # bytes; torch's magic number has ten
_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the file names, such as "numpy.ndarray"; nothing is imported."""

    name: str


@dataclass(slots=True, eq=False)
class Call:
    """A call that the file asks for, and the state that it would give the result."""

    of: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """What lies outside the pickle, under this key."""

    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LongText:
    """A text of more than a name's length, as the bytes of its UTF-8 in the file."""

    raw: Array


def parse_pickle(
    content: Array,
    start: int = 0,
    *,
    names: Collection[str] | None = None,
    unsupported: Mapping[str, str] | None = None,
    outside: bool = False,
) -> tuple[Any, int]:
    """The value of the pickle that begins there, and where it ends.

    `names` are the globals that it may name, all where it is None; `unsupported` says of others
    what a file that names them is.

    It is made of dictionaries with texts as keys, lists, tuples, texts, numbers, bytes (as arrays
    of uint8), `LongText`, `Name` and `Call`; with `outside` it may point out of itself: `Outside`.
    UnsoundError for anything else.
    """
    machine = _Machine(content, start, outside, names, unsupported or {})
    at = start
    try:
        if machine.take(1)[0] != _PROTO or machine.number("<B") not in _PROTOCOLS:
            raise ValueError("it does not begin as a pickle of protocol 2 to 5 does")
        for _ in range(MOST_STEPS):
            at = machine.at
            if machine.step():
                return machine.pop(), machine.at
    except IndexError:
        if machine.at >= len(content):
            raise UnsoundError("it ends too early", at, "truncated") from None
        raise UnsoundError("a value is lacking", at, "pickle") from None
    except ValueError as error:
        raise UnsoundError(str(error), at, "pickle") from None
    raise UnsoundError(f"more than {MOST_STEPS} instructions", at, "pickle")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(
        self,
        content: Array,
        start: int,
        outside: bool,
        names: Collection[str] | None,
        unsupported: Mapping[str, str],
    ) -> None:
        self.content = content
        self.at = start
        self.may_point_outside = outside
        self.names = names
        self.unsupported = unsupported
        self.text_left = _MOST_TEXT
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self) -> bool:
        """Do the next instruction; True for the last."""
        code = self.number("<B")
        if code == _STOP:
            if len(self.stack) != 1:
                raise ValueError("values are left over, or none is there")
            return True
        if code not in _STEPS:
            raise ValueError(f"the instruction {code:#04x} is not one that weights need")
        _STEPS[code](self)
        return False

    # ------------------------------------------------------------------ what follows an instruction

    def take(self, length: int) -> Array:
        """The next bytes of the file, where they lie."""
        stop = self.at + length
        if stop > len(self.content):
            self.at = len(self.content)
            raise IndexError
        taken = self.content[self.at : stop]
        self.at = stop
        return taken

    def number(self, layout: str) -> int:
        value: int
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)).tobytes())
        return value

    def text(self, length: int) -> Any:
        raw = self.take(length)
        if length > _SHORT:
            return LongText(raw)
        self.spend(length)
        return raw.tobytes().decode()

    def line(self) -> str:
        line, end, _ = self.content[self.at : self.at + _LONGEST_LINE].tobytes().partition(b"\n")
        if not end:
            raise ValueError("a name without an end")
        self.at += len(line) + 1
        self.spend(len(line))
        return line.decode("ascii")

    def frame(self, length: int) -> None:
        if length > len(self.content) - self.at:
            self.at = len(self.content)
            raise IndexError

    def spend(self, length: int) -> None:
        self.text_left -= length
        if self.text_left < 0:
            raise ValueError(f"more than {_MOST_TEXT} bytes of names")

    def long(self, length: int) -> int:
        if length > _LONGEST_NUMBER:
            raise ValueError(f"a number of {length} bytes")
        return int.from_bytes(self.take(length).tobytes(), "little", signed=True)

    # ------------------------------------------------------------------ the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is wanted")
        return value

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value is wanted")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def tuple_of(self, size: int) -> None:
        self.push(tuple([self.pop() for _ in range(size)][::-1]))

    def remember(self, number: int) -> None:
        if number > MOST_STEPS:
            raise ValueError(f"it numbers what it keeps with {number}")
        self.memo[number] = self.top()

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("a value that it did not keep is asked for")
        self.push(self.memo[number])

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:  # nothing else is hashed: a deep tuple would end the process
                raise ValueError(f"a {type(key).__name__} as a key; names are texts")
            if key in target:
                raise ValueError(f"{key[:60]!r} is named twice")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if type(self.top()) is not list:
            raise ValueError("items for what is no list")
        self.top().extend(items)

    def named(self, module: Any, last: Any) -> None:
        if type(module) is not str or type(last) is not str or "." in last:
            raise ValueError("a global that is not named as a module's")
        name = f"{module}.{last}"
        if name in self.unsupported:
            raise UnsoundError(self.unsupported[name], self.at, "unsupported")
        if self.names is not None and name not in self.names:
            raise ValueError(f"it asks for {name[:60]}, which weights do not need")
        self.push(Name(name))

    def call(self) -> None:
        args, of = self.pop(), self.pop()
        if type(args) is not tuple or type(of) is not Name:
            raise ValueError("a call of what has no name")
        ordered = of.name == "collections.OrderedDict" and not args
        self.push({} if ordered else Call(of.name, args))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if type(target) is Call:
            if target.state is not None:
                raise ValueError("a second state for one call")
            target.state = state
        elif type(target) is not dict or not _is_plain(state):
            # torch hangs its modules' versions on the dictionary.
            raise ValueError("a state for what was not called")

    def point_outside(self) -> None:
        key = self.pop()
        if not self.may_point_outside or type(key) is not tuple:
            raise ValueError("it points outside itself")
        self.push(Outside(key))


def _is_plain(value: Any) -> bool:
    """Whether it is dictionaries, numbers and texts alone."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        if type(one) is dict:
            if id(one) not in seen:
                seen.add(id(one))
                left += one.values()
        elif type(one) not in (int, str, bool, float, type(None)):
            return False
    return True


_STOP, _PROTO, _PROTOCOLS = ord("."), 0x80, range(2, 6)
_STEPS: dict[int, Callable[[_Machine], Any]] = {
    # numbers, texts, bytes
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("G"): lambda m: m.push(m.number(">d")),
    0x8A: lambda m: m.push(m.long(m.number("<B"))),
    0x8C: lambda m: m.push(m.text(m.number("<B"))),
    ord("X"): lambda m: m.push(m.text(m.number("<I"))),
    0x8D: lambda m: m.push(m.text(m.number("<Q"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    # constants and containers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("("): lambda m: m.push(_MARK),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    # the memo
    0x94: lambda m: m.remember(len(m.memo)),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    # globals, calls, and what frames them
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: lambda m: m.named(*[m.pop(), m.pop()][::-1]),
    ord("R"): lambda m: m.call(),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.point_outside(),
    0x95: lambda m: m.frame(m.number("<Q")),
}
"""What each instruction does, by its byte."""
