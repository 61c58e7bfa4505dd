"""Changes of a pickle by its instructions: https://docs.python.org/3/library/pickletools.html"""

from __future__ import annotations

import pickletools
import struct
from random import Random

from fuzzing.byte_changes import INTEGERS, change_list, one_in, packed
from fuzzing.corpus import PLANTED
from fuzzing.safetensors_changes import NAMES, SIZES

_ASKED_FOR = b"""
os mkdir, posix mkdir, builtins eval, __builtin__ eval, builtins exec, os system, builtins getattr,
os.path join, numpy.core.multiarray _reconstruct, numpy._core.multiarray _reconstruct,
numpy ndarray, numpy dtype, numpy.core.multiarray scalar, _codecs encode, codecs decode,
__builtin__ bytes, builtins tuple, collections OrderedDict, torch._utils _rebuild_tensor_v2,
torch._utils _rebuild_tensor, torch._utils _rebuild_parameter, torch.storage _load_from_bytes,
torch FloatStorage, torch LongStorage, torch BoolStorage, torch QInt8Storage,
numpy ndarray.tobytes, copyreg _reconstructor, numpy.core.numeric _frombuffer
"""
_GLOBALS = [*(tuple(pair.split()) for pair in _ASKED_FOR.split(b",")), (b"", b""), (b"a\r", b"b")]
"""What a pickle may ask for: modules and names, harmless or not."""
_TEXTS = (
    *(name.encode("utf-8", "surrogatepass") for name in NAMES),
    *b"storage cpu 0 1 99 latin1 utf-8 idna rot13 planted little_endian data/0 ../data".split(),
    *b"f4 f8 i8 b1 u2 O V8 O8 S4 M8 c8 < > | = UnpackBigParamInfor@@ slices OriginShape".split(),
    *(b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xc4\x80" * 600),
)
_OPCODES = tuple(bytes([ord(code.code)]) for code in pickletools.opcodes)
_PLAIN = tuple(bytes([code]) for code in b"(t012}])N\x88\x89RbsuaeQG\x81\x85\x86\x87\x90\x97.")
"""Instructions without an argument."""


def parts(content: bytes, pickles: int = 1) -> list[bytes]:
    """The instructions of so many pickles one after the other, and what follows in eights."""
    found: list[bytes] = []
    at = 0
    for _ in range(pickles):
        places = [at + (place or 0) for _, _, place in pickletools.genops(content[at:])]
        at = places[-1] + 1
        found += [content[a:b] for a, b in zip(places, [*places[1:], at], strict=True)]
    return [*found, *(content[i : i + 8] for i in range(at, len(content), 8))]


def change(rng: Random, instructions: list[bytes], pool: list[bytes]) -> bytes:
    """The pickle with some of its instructions changed; `pool` are another's."""
    instructions = list(instructions)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        _change_once(rng, instructions, pool)
    return b"".join(instructions)


def _change_once(rng: Random, instructions: list[bytes], pool: list[bytes]) -> None:
    kind = rng.random()
    marks = [i for i, part in enumerate(instructions) if part == b"("]
    if kind < 0.12:
        _change_shape(rng, instructions)
    elif kind < 0.4 and instructions:
        at = rng.randrange(len(instructions))
        instructions[at] = _other_argument(rng, instructions[at])
    elif kind < 0.6 and marks:  # where a dictionary's items begin, and a name would stand
        at = 1 + (marks[0] if rng.random() < 0.7 else rng.choice(marks))
        value = rng.choice((_execution, _nest, _nest, _memo, _number, _global, _instruction))
        instructions[at:at] = [_text(rng.choice(_TEXTS)), value(rng)]
    else:
        change_list(
            rng,
            instructions,
            lambda rng: _instruction(rng) if rng.random() < 0.7 else rng.choice(pool),
        )


def _change_shape(rng: Random, parts: list[bytes]) -> None:
    """Tuples of numbers are shapes, and steps after them: both get a size more, less or other."""
    codes = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
    ends = [
        (at - codes[part], at)
        for at, part in enumerate(parts)
        if at >= codes.get(part, at + 1)
        and all(p[:1] in b"JKM\x8a" for p in parts[at - codes[part] : at])
    ]
    if not ends:
        return
    first = rng.randrange(len(ends))
    times, place, kind = rng.choice((1, 2, 2)), rng.randrange(9), rng.randrange(4)
    extra = rng.choice((1, 1, 2, 6))
    for start, end in ends[first : first + times][::-1]:
        sizes = parts[start:end]
        at = place % len(sizes)
        new = [_integer(rng.choice(SIZES)) for _ in range(extra)]
        if kind == 0:
            sizes[at] = new[0]
        elif kind == 1:
            sizes[at:at] = new
        elif kind == 2:
            del sizes[at]
        else:
            sizes[at:at] = [_integer(0), *new]
        parts[start : end + 1] = [b"(", *sizes, b"t"]


def _other_argument(rng: Random, part: bytes) -> bytes:
    """An instruction with something else after its first byte."""
    code, rest = part[:1], part[1:]
    if code in b"X\x8c\x8d\x8e" and rest:
        raw = rng.choice(_TEXTS)
        width = {b"X": 4, b"\x8c": 1}.get(code, 8)
        raw = raw[:255] if width == 1 else raw
        return code + len(raw).to_bytes(width, "little") + raw
    if code in b"BC" and rest:
        raw = rng.randbytes(min(255, rng.choice((0, 1, 4, len(rest), 200))))
        return code + len(raw).to_bytes(4 if code == b"B" else 1, "little") + raw
    if code == b"c":
        return _global(rng)
    if code in b"JKM\x8a":
        return _number(rng)
    if code in b"qrhj":
        return _memo(rng)
    return code + rng.randbytes(len(rest))


def _instruction(rng: Random) -> bytes:
    """Bytes to stand between a pickle's instructions."""
    return rng.choice(_KINDS)(rng)


def _text(raw: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)


def _global(rng: Random) -> bytes:
    module, name = rng.choice(_GLOBALS)
    if one_in(rng, 3):
        return _text(module) + _text(name) + b"\x93"
    return b"c" + module + b"\n" + name + b"\n"


def _number(rng: Random) -> bytes:
    value = rng.choice((*INTEGERS, rng.randrange(40)))
    code, width = rng.choice(((b"J", 4), (b"K", 1), (b"M", 2), (b"\x8a", 0), (b"\x8a", 0)))
    if width:
        return code + packed(rng, width, value)
    raw = value.to_bytes(rng.choice((9, 10, 100)), "little", signed=True)
    return code + bytes([len(raw)]) + raw


def _execution(rng: Random) -> bytes:
    """Makes the planted directory, in one of the ways that pickles have."""
    mkdir, name = b"cos\nmkdir\n", _text(PLANTED.encode())
    how = rng.choice(
        (
            mkdir + name + b"\x85R",
            _text(b"os") + _text(b"mkdir") + b"\x93" + name + b"\x85R",
            mkdir + b"(" + name + b"tR",
            b"(" + name + b"ios\nmkdir\n",
            b"(" + mkdir + name + b"o",
            mkdir + name + b"\x85\x81",
            mkdir + name + b"\x85}\x92",
            b"cbuiltins\neval\n" + _text(b"__import__('os').mkdir('planted')") + b"\x85R",
            b"}" + _text(b"__setstate__") + mkdir + b"s" + name + b"b",
            b"\x82\x01" + name + b"\x85R",
        )
    )
    return how + rng.choice((b"", b"", b"0"))


def _lying_length(rng: Random) -> bytes:
    code, width = rng.choice(
        ((b"X", 4), (b"\x8d", 8), (b"\x8c", 1), (b"B", 4), (b"\x8e", 8), (b"C", 1), (b"\x96", 8))
    )
    raw = rng.choice(_TEXTS)
    length = rng.choice((*INTEGERS, len(raw) + 1, max(0, len(raw) - 1)))
    return code + packed(rng, width, length) + raw


def _memo(rng: Random) -> bytes:
    number = rng.choice((*range(12), 255, 256, (1 << 31), (1 << 32) - 1))
    if number < 256 and rng.random() < 0.7:
        return rng.choice((b"q", b"h", b"h")) + bytes([number])
    return rng.choice((b"r", b"j", b"\x94", b"\x94")) + struct.pack("<I", number)


def _nest(rng: Random) -> bytes:
    """Values inside one another, inside themselves, or shared ever more often."""
    kind, times = rng.randrange(6), rng.choice((2, 4, 5, 30, 3000))
    if kind == 0:
        return b"N" + b"\x85" * times
    if kind == 1:
        return b"}N" + b"\x85" * times + b"Ns"
    if kind == 2:
        return rng.choice((b"]q\x63h\x63a", b"}q\x63" + _text(b"x") + b"h\x63s"))
    if kind == 3:
        return b"".join(b"}" + _text(b"a") for _ in range(times)) + b"N" + b"s" * times
    if kind == 4:
        return b"]" * times + b"a" * (times - 1)
    wide = rng.choice((2, 20))
    shared = b"".join(_text(b"k%d" % i) + b"h\x63" for i in range(wide))
    first = b"}" + _text(b"a") + b"Nsq\x63"
    return first + b"".join(b"0}(" + shared + b"uq\x63" for _ in range(min(times, 6)))


def _frame(rng: Random) -> bytes:
    return b"\x95" + packed(rng, 8, rng.choice(INTEGERS))


def _protocol(rng: Random) -> bytes:
    return b"\x80" + bytes([rng.randrange(8)])


def _opcode(rng: Random) -> bytes:
    return rng.choice(_OPCODES) + rng.choice((b"", rng.randbytes(rng.randrange(9))))


def _plain(rng: Random) -> bytes:
    return rng.choice(_PLAIN)


def _some_text(rng: Random) -> bytes:
    return _text(rng.choice(_TEXTS))


_KINDS = (
    *(_execution, _number, _number, _some_text, _some_text, _lying_length, _memo, _memo),
    *(_nest, _global, _global, _frame, _protocol, _opcode, _plain, _plain),
)
