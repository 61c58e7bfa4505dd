"""Attacks on PaddlePaddle's .pdparams, which are pickles of numpy arrays.

What `paddle.save` writes: https://github.com/PaddlePaddle/Paddle, python/paddle/framework/io.py.
"""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import opcodes as op
from attack_kit import (
    BAIT,
    LOADS,
    MARKER,
    SIZES,
    WEIGHT,
    Array,
    Attack,
    Builder,
    Contents,
    Sound,
    cuts,
    refused,
    rows,
    save as save_any,
    sound_paddle,
    sound_safetensors,
    sound_torch,
)

PICKLE = refused("pickle")
CUT = refused("truncated", "pickle")
ARRAY = refused("pickle", "tensors", "unsupported")
"""For an array that is none, or of numbers that weights do not have."""
NAME = refused("pickle", "tensors")
FILL = refused("tensors")

FILE = "model_state.pdparams"
MATRIX = "encoder.layers.0.linear1.weight"
"""A weight of 8 x 12 numbers."""
PARTS = "UnpackBigParamInfor@@"
OWN_NAMES = "StructuredToParameterName@@"


# ---------------------------------------------------------------- ways to spoil a file


def save(make: Callable[[Sound], Contents], **config: Any) -> Builder:
    return save_any(make, FILE, **config)


def holding(content: bytes) -> Builder:
    """The whole file is this."""
    return save(lambda sound: content)


def pickled(*parts: bytes) -> Builder:
    """The whole file is a pickle of these instructions."""
    return holding(op.pickled(*parts))


def beside(value: Any) -> Builder:
    """One thing more among the sound weights, none of which it keeps from being read."""
    return save(lambda sound: sound_paddle(sound, extra=value))


def weight(value: Any, **config: Any) -> Builder:
    """`WEIGHT` is something else."""
    return save(lambda sound: sound_paddle(sound, **{WEIGHT: value}), **config)


def array(**lies: Any) -> Builder:
    """`WEIGHT`'s array with untruths."""
    return save(
        lambda sound: sound_paddle(sound, **{WEIGHT: op.array(sound.arrays[WEIGHT], **lies)})
    )


def numbers(array: Array) -> Builder:
    """`WEIGHT` is another array, pickled by numpy itself."""

    def make(sound: Sound) -> bytes:
        arrays = {**sound.paddle(), WEIGHT: array}
        return pickle.dumps(arrays, 4)

    return save(make)


def numbers_of(convert: Callable[[Array], Array], **config: Any) -> Builder:
    """All weights in another type."""

    def make(sound: Sound) -> bytes:
        return pickle.dumps({name: convert(a) for name, a in sound.paddle().items()}, 4)

    return save(make, **config)


def by_numpy(protocol: int) -> Builder:
    return save(lambda sound: pickle.dumps(sound.paddle(), protocol))


def changed(change: Callable[[bytes], bytes]) -> Builder:
    """The sound file's bytes changed."""
    return save(lambda sound: change(sound_paddle(sound)))


def then(*parts: bytes) -> Builder:
    """The sound dictionary on the stack, and instructions after it."""
    return save(lambda sound: op.pickled(sound_paddle(sound)[2:-1], *parts))


def calls(function: tuple[str, str], *arguments: Any) -> op.Ops:
    return op.call(op.name(*function), *arguments)


def rebuilt_by(make: op.Ops) -> Builder:
    """An array that another function is to rebuild."""
    return array(make=make)


def in_parts(
    parts: Mapping[str, Any], shape: Any = (8, 12), slices: Any = None, **more: Any
) -> Builder:
    """`MATRIX` in parts, as Paddle cuts up arrays of more than a gibibyte, and what says so."""

    def make(sound: Sound) -> bytes:
        names = list(parts) if slices is None else slices
        flat = sound.paddle()[MATRIX].ravel()
        items = {
            name: op.array(flat[part]) if isinstance(part, slice) else part
            for name, part in parts.items()
        }
        told = {MATRIX: {"OriginShape": shape, "slices": names}, **more.get("told", {})}
        whole = more.get("whole", ...)
        return sound_paddle(sound, **{MATRIX: whole, **items, PARTS: more.get("as", told)})

    return save(make)


FIRST, SECOND = MATRIX + "@@.0", MATRIX + "@@.1"
HALVES = {FIRST: slice(0, 48), SECOND: slice(48, 96)}


def tiny_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    return cuts(sound_paddle(sound, [WEIGHT]))


def border_cuts(sound: Sound) -> Iterator[tuple[str, bytes]]:
    """Before, in and after each array."""
    whole = sound_paddle(sound)
    places = [whole.index(a.tobytes()) + n for a in sound.paddle().values() for n in (-5, 0, 3)]
    return cuts(whole, sorted({*places, len(whole) - 1}))


def many_numbers(sound: Sound) -> bytes:
    """The sound weights, and under a million names None."""
    items = b"".join(b"X\x07\0\0\0%07dN" % n for n in range(1_000_000))
    return op.pickled(sound_paddle(sound)[2:-1], b"(", items, b"u")


def static_graph(sound: Sound) -> bytes:
    """What `paddle.static.save` writes of one tensor: no pickle, and no names."""
    data = sound.arrays[WEIGHT].tobytes()
    told = b"\x08\x05\x10\x08"  # a protobuf: type 5, which is FP32; one dimension, of 8
    return struct.pack("<IQIi", 0, 0, 0, len(told)) + told + data


def lod_tensor(sound: Sound) -> bytes:
    """What `paddle.save` writes of a LoDTensor: a call of eval, of the text "data"."""
    data = {"data": op.array(sound.arrays[WEIGHT])}
    return sound_paddle(sound, **{WEIGHT: calls(("builtins", "eval"), "data", data)})


HOLDING_ITSELF = {
    "dictionary": op.Ops(b"}q\x00" + op.of("a") + b"h\x00s"),
    "list": op.Ops(b"]q\x00h\x00a"),
    "list, in a tuple": op.Ops(b"]q\x00h\x00\x85a"),
}


def doubled(kind: type, times: int = 60) -> op.Ops:
    """Twice the same, which holds twice the same, which ...: 2^60 things in 600 bytes."""
    found = b"N"
    for n in range(times):
        first, again = found + b"q" + bytes([n]), b"h" + bytes([n])
        if kind is dict:
            found = b"}(" + op.of("a") + first + op.of("b") + again + b"u"
        elif kind is list:
            found = b"](" + first + again + b"e"
        else:
            found = first + again + b"\x86"
    return op.Ops(found)


# ---------------------------------------------------------------- the table

SYSTEM = ("os", "system")
CALLED = {
    "os.system": calls(SYSTEM, BAIT),
    "posix.system": calls(("posix", "system"), BAIT),
    "nt.system": calls(("nt", "system"), BAIT),
    "os.mkdir": calls(("os", "mkdir"), MARKER),
    "os.execvp": calls(("os", "execvp"), "mkdir", ["mkdir", MARKER]),
    "subprocess.Popen": calls(("subprocess", "Popen"), ["mkdir", MARKER]),
    "subprocess.check_output": calls(("subprocess", "check_output"), ["mkdir", MARKER]),
    "pty.spawn": calls(("pty", "spawn"), ["mkdir", MARKER]),
    "builtins.exec": calls(("builtins", "exec"), f"import os; os.mkdir('{MARKER}')"),
    "builtins.open": calls(("builtins", "open"), MARKER, "w"),
    "builtins.compile": calls(("builtins", "compile"), "1", "x", "eval"),
    "builtins.__import__": calls(("builtins", "__import__"), "antigravity"),
    "builtins.getattr": calls(("builtins", "getattr"), op.name("os", "path"), "os"),
    "builtins.dict": calls(("builtins", "dict")),
    "builtins.set": calls(("builtins", "set"), [1]),
    "builtins.bytearray": calls(("builtins", "bytearray"), 2**40),
    "importlib.import_module": calls(("importlib", "import_module"), "antigravity"),
    "runpy.run_path": calls(("runpy", "run_path"), "/dev/null"),
    "timeit.timeit": calls(("timeit", "timeit"), f"__import__('os').mkdir('{MARKER}')"),
    "pickle.loads": calls(("pickle", "loads"), pickle.dumps(1)),
    "numpy.load": calls(("numpy", "load"), FILE, None, True),
    "numpy.fromfile": calls(("numpy", "fromfile"), "/etc/passwd"),
    "numpy.save": calls(("numpy", "save"), MARKER, 1),
    "numpy.f2py.crackfortran.myeval": calls(
        ("numpy.f2py.crackfortran", "myeval"), f"__import__('os').mkdir('{MARKER}')"
    ),
    "numpy.testing._private.utils.runstring": calls(
        ("numpy.testing._private.utils", "runstring"), f"import os; os.mkdir('{MARKER}')", {}
    ),
    "numpy.ndarray, called": calls(("numpy", "ndarray"), (2**40,)),
    "numpy.zeros": calls(("numpy", "zeros"), (2**40,)),
    "numpy.core.multiarray.scalar": calls(
        ("numpy.core.multiarray", "scalar"), op.dtype(), b"\0\0\0\0"
    ),
    "torch.load": calls(("torch", "load"), FILE),
    "torch.hub.load": calls(("torch.hub", "load"), "a/b", "c"),
    "functools.partial": calls(("functools", "partial"), op.name(*SYSTEM), BAIT),
    "functools.reduce": calls(("functools", "reduce"), op.name(*SYSTEM), [BAIT, BAIT]),
    "operator.attrgetter": calls(("operator", "attrgetter"), "__class__.__base__"),
    "operator.methodcaller": calls(("operator", "methodcaller"), "system", BAIT),
    "_codecs.decode": calls(("_codecs", "decode"), b"a", "latin1"),
    "copyreg._reconstructor": calls(
        ("copyreg", "_reconstructor"), op.name(*SYSTEM), op.name("builtins", "object"), None
    ),
    "shutil.rmtree": calls(("shutil", "rmtree"), MARKER),
    "socket.create_connection": calls(("socket", "create_connection"), ("127.0.0.1", 9)),
    "ctypes.CDLL": calls(("ctypes", "CDLL"), None),
    "a module of the checkpoint's own": calls(("model_state", "main")),
}
NAMED = op.name(*SYSTEM)
RUN = [
    *rows("a call of {}", beside, PICKLE, CALLED),
    *rows(
        "os.system by {}",
        beside,
        PICKLE,
        {
            "GLOBAL alone": NAMED,
            "STACK_GLOBAL": op.call(op.stacked(*SYSTEM), BAIT),
            "INST": op.Ops(b"(" + BAIT + b"ios\nsystem\n"),
            "OBJ": op.Ops(b"(" + NAMED + BAIT + b"o"),
            "NEWOBJ": op.Ops(NAMED + op.of((BAIT,)) + b"\x81"),
            "NEWOBJ_EX": op.Ops(NAMED + op.of((BAIT,)) + op.of({}) + b"\x92"),
            "a name from the memo": op.Ops(
                b"](" + NAMED + b"q\x07" + b"h\x07" + op.of((BAIT,)) + b"Re"
            ),
            "the state of an array": op.built(op.RECONSTRUCT, op.call(NAMED, BAIT)),
            "the argument of another call": calls(
                ("builtins", "tuple"), [("x", op.call(NAMED, BAIT))]
            ),
            "an item of a list": [op.call(NAMED, BAIT)],
            "a dictionary in a dictionary": {"a": {"b": op.call(NAMED, BAIT)}},
            "the text instructions of protocol 0": op.Ops(b"cos\nsystem\n(S'mkdir planted'\ntR"),
        },
    ),
    Attack("os.system in place of a weight", weight(op.call(NAMED, BAIT)), PICKLE),
    Attack("os.system in place of it all", pickled(op.call(NAMED, BAIT)), PICKLE),
    Attack(
        "os.system, its result thrown away",
        save(lambda sound: op.pickled(op.call(NAMED, BAIT), b"0", sound_paddle(sound)[2:-1])),
        PICKLE,
    ),
    Attack(
        "os.system among Paddle's own names, which are dropped",
        save(lambda s: sound_paddle(s, **{OWN_NAMES: {WEIGHT: op.call(NAMED, BAIT)}})),
        PICKLE,
    ),
    Attack(
        "os.system after the file's end",
        changed(lambda content: content + op.pickled(op.call(NAMED, BAIT))),
        PICKLE,
    ),
    *rows(
        "a call of {}, with which Paddle writes a LoDTensor",
        lambda module: beside(calls((module, "eval"), f"__import__('os').mkdir('{MARKER}')")),
        refused("pickle", "unsupported"),
        {f"{module}.eval": module for module in ("builtins", "__builtin__")},
    ),
    Attack("a LoDTensor, of which eval is called", save(lod_tensor), ARRAY),
    Attack("a static graph's file", save(static_graph), refused("unsupported")),
    Attack(
        "several static graph's tensors, end to end",
        save(lambda sound: 3 * static_graph(sound)),
        refused("unsupported"),
    ),
]

NUMPY = ("numpy.core.multiarray", "_reconstruct")
LIKE = [
    *rows(
        "an array rebuilt by {}",
        rebuilt_by,
        PICKLE,
        {
            "numpy.core / multiarray._reconstruct": op.name("numpy.core", "multiarray." + NUMPY[1]),
            "numpy / core.multiarray._reconstruct": op.stacked(
                "numpy", "core.multiarray." + NUMPY[1]
            ),
            "no module": op.stacked("", ".".join(NUMPY)),
            "its globals": op.stacked(NUMPY[0], NUMPY[1] + ".__globals__"),
            "its class": op.stacked(NUMPY[0], NUMPY[1] + ".__class__"),
            "a name in capitals": op.name("Numpy.Core.Multiarray", NUMPY[1]),
            "a module with a space after it": op.name(NUMPY[0] + " ", NUMPY[1]),
            "a name with a space after it": op.name(NUMPY[0], NUMPY[1] + " "),
            "a name with a space in front": op.stacked(NUMPY[0], " " + NUMPY[1]),
            "a module with a dot in front": op.stacked("." + NUMPY[0], NUMPY[1]),
            "a module with two dots": op.stacked("numpy..core.multiarray", NUMPY[1]),
            "a name with a NUL": op.stacked(NUMPY[0], NUMPY[1] + "\0"),
            "a name with a line's end": op.stacked(NUMPY[0], NUMPY[1] + "\n"),
            "a module in Cyrillic letters": op.stacked("n\u0443mpy.core.multiarray", NUMPY[1]),
            "a module in wide letters": op.stacked("\uff4eumpy.core.multiarray", NUMPY[1]),
            "a name with a space of no width": op.stacked(NUMPY[0], "_recon\u200bstruct"),
            "letters that are not ASCII in a GLOBAL": op.name("n\u0443mpy.core", NUMPY[1]),
            "a number as its name": op.Ops(op.of(NUMPY[0]) + op.of(1) + b"\x93"),
            "bytes as its name": op.Ops(op.of(NUMPY[0]) + op.of(NUMPY[1].encode()) + b"\x93"),
            "a text": op.of(".".join(NUMPY)),
            "the result of a call": op.call(op.RECONSTRUCT, op.NDARRAY, (0,), b"b"),
        },
    ),
    *rows(
        "an array of the class {}",
        lambda kind: array(kind=kind),
        PICKLE,
        {
            "numpy.matrix": op.name("numpy", "matrix"),
            "numpy.recarray": op.name("numpy", "recarray"),
            "numpy.memmap": op.name("numpy", "memmap"),
            "numpy.ma.MaskedArray": op.name("numpy.ma", "MaskedArray"),
            "os.system": NAMED,
            "builtins.object": op.name("builtins", "object"),
            "numpy / ndarray.__class__": op.stacked("numpy", "ndarray.__class__"),
            "a text": "numpy.ndarray",
            "nothing": None,
        },
    ),
]

STATES = [
    *rows(
        "an array whose state is {}",
        lambda state: array(state=state),
        ARRAY,
        {
            "a dictionary": {"__setstate__": NAMED},
            "a dictionary and slots": (None, {"data": NAMED}),
            "nothing": None,
            "of four": (1, (8,), op.dtype(), False),
            "of six": (1, (8,), op.dtype(), False, bytes(32), None),
            "a text": "abcde",
            "another array": op.array(np.zeros(8, np.float32)),
        },
    ),
    *rows(
        "{}",
        weight,
        ARRAY,
        {
            "an array with no state": op.call(op.RECONSTRUCT, op.NDARRAY, (0,), b"b"),
            "an array with two states": op.built(op.array(np.zeros(8, "<f4")), {"a": 1}),
            "a state for a name": op.built(NAMED, {"a": 1}),
            "a state for a tuple": op.built(op.of((1, 2)), {"a": 1}),
            "a state for a dictionary": op.built(op.of({}), {"a": 1}),
            "an array with nothing to rebuild": op.call(op.RECONSTRUCT),
            "arguments that are a list": op.Ops(op.RECONSTRUCT + op.of([1]) + b"R"),
            "a call of a text": op.Ops(op.of("numpy.ndarray") + op.of(()) + b"R"),
            "a tuple of three": calls(
                ("builtins", "tuple"), ("x", op.array(np.zeros(8, "<f4")), None)
            ),
            "a tuple called with two things": calls(("builtins", "tuple"), "x", "y"),
            "a tuple called with a number": calls(("builtins", "tuple"), 10**9),
            "a tuple with a number for its name": (1, op.array(np.zeros(8, "<f4"))),
            "a list": [1.0] * 8,
            "a text": "1 2 3 4 5 6 7 8",
            "a number": 8.0,
            "bytes": bytes(32),
            "nothing": None,
        },
    ),
]

NUMBERS = [
    *rows(
        "a weight of {}",
        numbers,
        ARRAY,
        {
            "objects": np.array([1.0] * 8, dtype=object),
            "structures": np.zeros(8, dtype=[("a", "<f4")]),
            "texts": np.array(["a"] * 8),
            "bytes": np.array([b"abcd"] * 8),
            "dates": np.zeros(8, dtype="M8[s]"),
            "raw memory": np.zeros(8, dtype="V4"),
            "complex numbers": np.zeros(8, dtype="c8"),
            "big-endian numbers": np.zeros(8, dtype=">f4"),
            "80 bits": np.zeros(8, dtype=np.longdouble),
            "integers": np.zeros(8, dtype="i8"),
            "truth values": np.zeros(8, dtype="?"),
            "unsigned numbers of 16 bits": np.zeros(8, dtype="u2"),
        },
    ),
    *rows(
        "a dtype {}",
        lambda lies: array(dtype=lies),
        ARRAY,
        {
            "that is a text": "f4",
            "that is a class": op.name("numpy", "float32"),
            "by a number": op.dtype(11),
            "by bytes": op.dtype(b"f4"),
            "by a list": op.dtype(["f4"]),
            "by a list of fields": op.dtype([("a", "f4")]),
            "by a long text": op.dtype("f4," * 100_000),
            "by a deep tuple, whose hash overflows the stack": op.dtype(op.deep_tuple()),
            "by a tuple of 2^60 things": op.dtype(op.shared_tuple()),
            "of objects": op.dtype("O8", "|"),
            "in no order": op.dtype("f4", None),
            "in network order": op.dtype("f4", ">"),
            "in a deep tuple's order": op.dtype("f4", op.deep_tuple()),
            "with no state": op.call(op.name("numpy", "dtype"), "f4", False, True),
            "with no arguments": op.dtype(arguments=()),
            "with a short state": op.dtype(state=(3,)),
            "with a state that is a text": op.dtype(state="x<"),
            "with a dictionary for its state": op.dtype(state={1: "<"}),
            "with fields": op.dtype(state=(3, "<", None, ("a",), {"a": (op.dtype(), 0)}, 4, 1, 16)),
            "with fields of its own beside its type": op.dtype(
                state=(3, "<", (op.dtype(), (2**31,)), None, None, -1, -1, 0)
            ),
        },
    ),
    Attack("weights of integers", numbers_of(lambda a: a.astype("i4")), ARRAY),
    Attack("weights of truth values", numbers_of(lambda a: a.astype("?")), ARRAY),
    Attack(
        "bfloat16, which the configuration does not tell of",
        numbers_of(lambda a: (a.view("u4") >> 16).astype("u2")),
        ARRAY,
    ),
    Attack(
        "bfloat16 of which the configuration says that it is half precision",
        numbers_of(lambda a: (a.view("u4") >> 16).astype("u2"), dtype="float16"),
        ARRAY,
    ),
]

SHAPES = [
    *rows(
        "a shape {}",
        lambda shape: array(shape=shape),
        ARRAY,
        {
            "smaller than the bytes": (7,),
            "larger than the bytes": (9,),
            "far larger than the bytes": (2**40,),
            "of 2^96 numbers": (2**32,) * 3,
            "of 2^64 + 8 numbers, which are 8 in 64 bits": (2**64 + 8,),
            "of 10^600": (10**600,),
            "negative": (-8,),
            "negative twice": (-2, -4),
            "in fractions": (8.0,),
            "in truth values": (True, 8),
            "in texts": ("8",),
            "that is a list": [8],
            "that is a number": 8,
            "that is null": None,
            "of nine dimensions": (1,) * 8 + (8,),
            "of 65 dimensions": (1,) * 64 + (8,),
            "of 100,000 dimensions": (1,) * 99_999 + (8,),
            "that is a deep tuple": op.deep_tuple(),
            "that is a tuple of 2^60 things": op.shared_tuple(),
        },
    ),
    *rows(
        "no number, of the shape {}",
        lambda shape: beside(op.array(np.zeros(0, "<f4"), shape=shape)),
        ARRAY,
        {"0 x 2^70": (0, 2**70), "2^32 x 2^32 x 0": (2**32, 2**32, 0), "8 x -1 x 0": (8, -1, 0)},
    ),
    *rows(
        "an array that lies by columns: {}",
        lambda flag: array(by_column=flag),
        ARRAY,
        {"1": 1, "a text": "F", "null": None, "a list": []},
    ),
    *rows(
        "the numbers of an array as {}",
        lambda raw: array(raw=raw),
        ARRAY,
        {
            "a text": "\0" * 32,
            "a list": [0.0] * 8,
            "null": None,
            "fewer bytes": bytes(31),
            "more bytes": bytes(33),
            "no bytes": b"",
            "a text encoded by rot13": calls(("_codecs", "encode"), "a" * 32, "rot13"),
            "a text encoded as UTF-8": calls(("_codecs", "encode"), "a" * 32, "utf-8"),
            "a text encoded by zip": calls(("_codecs", "encode"), "a" * 32, "zip"),
            "a text encoded by a list": calls(("_codecs", "encode"), "a" * 32, ["latin1"]),
            "a text with errors passed over": calls(
                ("_codecs", "encode"), "a" * 32, "latin1", "ignore"
            ),
            "a text that is not latin1": calls(("_codecs", "encode"), "\u4e2d" * 32, "latin1"),
            "a number, encoded": calls(("_codecs", "encode"), 32, "latin1"),
            "bytes of a length": calls(("__builtin__", "bytes"), 32),
            "bytes of a billion": calls(("__builtin__", "bytes"), 10**9),
        },
    ),
]

LONG, LONGER = struct.pack("<I", 2**32 - 1), struct.pack("<Q", 2**62)
INSTRUCTIONS = [
    *rows(
        "{}",
        beside,
        PICKLE,
        {
            "EXT1": op.Ops(b"\x82\x01"),
            "EXT2": op.Ops(b"\x83\x01\x01"),
            "EXT4": op.Ops(b"\x84\x01\x00\x00\x00"),
            "PERSID": op.Ops(b"Pname\n"),
            "BINPERSID": op.Ops(op.of("name") + b"Q"),
            "BINPERSID of a storage, as PyTorch has it": op.Ops(
                op.of(("storage", op.name("torch", "FloatStorage"), "0", "cpu", 8)) + b"Q"
            ),
            "NEXT_BUFFER": op.Ops(b"\x97"),
            "READONLY_BUFFER": op.Ops(b"\x97\x98"),
            "BYTEARRAY8": op.Ops(b"\x96" + struct.pack("<Q", 4) + b"abcd"),
            "FROZENSET": op.Ops(b"(" + op.of(1) + b"\x91"),
            "EMPTY_SET and ADDITEMS": op.Ops(b"\x8f(" + op.of(1) + b"\x90"),
            "GET of what is not there": op.Ops(b"g7\n"),
            "GET of less than nothing": op.Ops(b"g-1\n"),
            "GET of a number of 5,000 digits": op.Ops(b"g" + b"9" * 5000 + b"\n"),
            "BINGET of what is not there": op.Ops(b"h\x07"),
            "LONG_BINGET of what is not there": op.Ops(b"j\xff\xff\xff\xff"),
            "PUT of less than nothing": op.Ops(b"Np-1\n"),
            "a MARK for a value": op.Ops(b"("),
            "APPEND to a tuple": op.Ops(b")Na"),
            "APPENDS to a number": op.Ops(b"K\x01(Ne"),
            "SETITEM in a list": op.Ops(b"]" + op.of("a") + b"Ns"),
            "SETITEMS of an odd number": op.Ops(b"}(" + op.of("a") + b"u"),
            "a text that is not UTF-8": op.Ops(b"\x8c\x01\xff"),
            "a number that is none": op.Ops(b"Iabc\n"),
            "a number of 5,000 digits": op.Ops(b"I" + b"9" * 5000 + b"\n"),
            "a text with an escape that there is not": op.Ops(b"S'\\z'\n"),
            "a text with half a quotation mark": op.Ops(b"S'a\n"),
            "an instruction that there is not": op.Ops(b"\xff"),
            "an end before the end": op.Ops(b"."),
            "POP of more than there is": op.Ops(b"0" * 200),
            "POP_MARK without a MARK": op.Ops(b"1" * 200),
            "DUP of a MARK": op.Ops(b"(2"),
        },
    ),
    *rows(
        "{}",
        beside,
        CUT,
        {
            "LONG_BINPUT at 2^31 - 1, which has a table made": op.Ops(b"Nr\xff\xff\xff\x7f"),
            "LONG_BINPUT at 2^32 - 1": op.Ops(b"Nr\xff\xff\xff\xff"),
            "PUT at 10^12": op.Ops(b"Np1000000000000\n"),
            "BINUNICODE of 4 GiB": op.Ops(b"X" + LONG),
            "BINUNICODE8 of 2^62": op.Ops(b"\x8d" + LONGER),
            "BINUNICODE8 of 2^64 - 1": op.Ops(b"\x8d" + b"\xff" * 8),
            "BINBYTES of 4 GiB": op.Ops(b"B" + LONG),
            "BINBYTES8 of 2^62": op.Ops(b"\x8e" + LONGER),
            "BINBYTES8 of 2^63": op.Ops(b"\x8e" + struct.pack("<Q", 2**63)),
            "BYTEARRAY8 of 2^62": op.Ops(b"\x96" + LONGER),
            "BINSTRING of 2 GiB": op.Ops(b"T" + struct.pack("<i", 2**31 - 1)),
            "BINSTRING of less than nothing": op.Ops(b"T" + struct.pack("<i", -1)),
            "LONG4 of 2^30 bytes": op.Ops(b"\x8b" + struct.pack("<i", 2**30)),
            "LONG4 of less than nothing": op.Ops(b"\x8b" + struct.pack("<i", -1)),
            "LONG4 of a megabyte, which is there": op.Ops(
                b"\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20
            ),
            "FRAME of 2^62": op.Ops(b"\x95" + LONGER + b"N"),
            "FRAME of 2^63": op.Ops(b"\x95" + struct.pack("<Q", 2**63) + b"N"),
            "FRAME of 2^64 - 1": op.Ops(b"\x95" + b"\xff" * 8 + b"N"),
            "a line of a megabyte that does not end": op.Ops(b"V" + b"a" * 2**20),
            "a name that does not end": op.Ops(b"c" + b"a" * 2**20),
        },
    ),
]


KEYS = [
    *rows(
        "a key that is {}",
        lambda key: then(op.of(key), b"K\x01s"),
        PICKLE,
        {
            "a deep tuple, whose hash overflows the stack": op.deep_tuple(),
            "a tuple of 2^60 things": op.shared_tuple(),
            "a list": [1],
            "a dictionary": {},
            "a number": 1,
            "a truth value": True,
            "nothing": None,
            "bytes": WEIGHT.encode(),
            "a tuple": (WEIGHT,),
            "a class": op.NDARRAY,
            "a call": op.call(NAMED, BAIT),
            "half of a surrogate pair": "\ud800",
        },
    ),
    *rows(
        "an array called {}",
        lambda name: save(lambda s: sound_paddle(s, **{name: op.array(s.arrays[WEIGHT])})),
        NAME,
        {
            "../../x": "../../x.position_ids",
            "what NUL is in": "a\0b.position_ids",
            "nothing": "",
            "10,000 letters": "a" * 10_000 + ".position_ids",
            "as a weight, under the body's prefix": "bert." + WEIGHT,
            "as our own weight, beside Paddle's": "encoder.layer.0.output.LayerNorm.bias",
            "as no weight of this model": "encoder.layers.1.norm1.bias",
        },
    ),
    Attack(
        "one name twice",
        then(op.of(WEIGHT), op.array(np.zeros(8, "<f4")), b"s"),
        NAME,
    ),
    Attack("a weight missing", save(lambda s: sound_paddle(s, **{WEIGHT: ...})), FILL),
    Attack(
        "a weight the wrong way round",
        save(lambda s: sound_paddle(s, **{MATRIX: op.array(s.paddle()[MATRIX].T.copy())})),
        FILL,
    ),
]

BOMBS = [
    *rows(
        "{}",
        beside,
        PICKLE,
        {
            **{f"a {kind.__name__} of 2^60 things": doubled(kind) for kind in (dict, list, tuple)},
            **{f"a {kind} that holds itself": value for kind, value in HOLDING_ITSELF.items()},
            "a tuple 200,000 deep": op.deep_tuple(),
            "lists 100,000 deep": op.Ops(b"]" * 100_000 + b"a" * 99_999),
            "dictionaries 100,000 deep": op.Ops(
                (b"}" + op.of("a")) * 100_000 + b"N" + b"s" * 100_000
            ),
            "calls 100,000 deep": op.Ops(
                op.name("builtins", "tuple") * 100_000 + b")" + b"\x85R" * 100_000
            ),
            # Below any sensible number of instructions, and each takes 70 bytes of memory.
            "4 million empty lists": op.Ops(b"](" + b"]" * 4_000_000 + b"e"),
            "2 million short texts": op.Ops(b"](" + b"\x8c\x02ab" * 2_000_000 + b"e"),
            "5.2 million instructions that come to nothing": op.Ops(b"}0" * 2_600_000 + b"N"),
            "5.1 million times MEMOIZE": op.Ops(b"N" + b"\x94" * 5_100_000),
        },
    ),
    Attack(
        "a million numbers by name",
        save(many_numbers),
        NAME,
    ),
    Attack(
        "one array under 10,000 names",
        save(
            lambda s: op.pickled(
                sound_paddle(s)[2:-1] + b"(",
                op.of("position_ids") + op.array(np.zeros(10_000, "<f4")) + b"q\x00",
                *(op.of(f"{n}.position_ids") + b"h\x00" for n in range(10_000)),
                b"u",
            )
        ),
        NAME,
    ),
]

WHOLE_FILES = [
    Attack("a tiny file cut off at every byte", save(tiny_cuts), CUT),
    Attack("cut off at and in every array", save(border_cuts), CUT),
    Attack(
        "a byte cut off, the file and a configuration given",
        save(lambda sound: sound_paddle(sound)[:-1]),
        CUT,
        opens=FILE,
        options={"config": SIZES},
    ),
    *rows(
        "a file of protocol {}",
        by_numpy,
        refused("pickle", "unsupported"),
        {"0": 0, "1": 1, "5": 5},
    ),
    *rows(
        "a file said to be of protocol {}",
        lambda protocol: save(lambda sound: sound_paddle(sound, protocol=protocol)),
        refused("pickle", "unsupported"),
        {"6": 6, "255": 255},
    ),
    *rows(
        "{} after the end",
        lambda more: changed(lambda content: content + more),
        PICKLE,
        {
            "a byte": b"\0",
            "a megabyte of zeros": bytes(2**20),
            "another file": op.pickled(op.of({"a": 1})),
        },
    ),
    *rows(
        "{} under the name of the weights",
        holding,
        CUT,
        {
            "nothing": b"",
            "STOP": b".",
            "a protocol and STOP": b"\x80\x04.",
            "a text": b"not a pickle at all",
            "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\n",
            "a page of the web": b"<!DOCTYPE html><html>404</html>",
            "a million opening brackets": b"\x80\x04" + b"(" * 1_000_000,
            "two values": op.pickled(op.of({}), op.of({})),
            "a list": op.pickled(op.of([1])),
            "a text's pickle": op.pickled(op.of("a")),
            "None": op.pickled(op.of(None)),
            "an array alone": op.pickled(op.array(np.zeros(8, "<f4"))),
        },
    ),
    Attack("an empty dictionary", pickled(op.of({})), NAME),
    Attack("four million zeros", holding(bytes(4_000_000)), refused("pickle", "unsupported")),
    Attack("a packed file", save(lambda sound: gzip.compress(sound_paddle(sound))), PICKLE),
    Attack("a zip of PyTorch's", save(sound_torch), PICKLE),
    Attack("a safetensors file", save(sound_safetensors), PICKLE),
]

IN_PARTS = [
    Attack(
        "parts of which one is missing",
        in_parts({FIRST: slice(0, 48)}, slices=[FIRST, SECOND]),
        ARRAY,
    ),
    Attack("parts too short", in_parts({FIRST: slice(0, 48), SECOND: slice(48, 90)}), ARRAY),
    Attack("parts too long", in_parts({FIRST: slice(0, 48), SECOND: slice(40, 96)}), ARRAY),
    Attack("a part that is in it twice", in_parts(HALVES, slices=[FIRST, FIRST]), ARRAY),
    Attack(
        "a part a million times",
        in_parts(
            HALVES, slices=op.Ops(b"](" + op.of(FIRST) + b"q\x00" + b"h\x00" * 1_000_000 + b"e")
        ),
        ARRAY,
    ),
    Attack(
        "a part that no array takes",
        in_parts({**HALVES, MATRIX + "@@.2": slice(0, 1)}, slices=[FIRST, SECOND]),
        ARRAY,
    ),
    Attack(
        "a part of another type",
        in_parts({FIRST: slice(0, 48), SECOND: op.array(np.zeros(48, "<f8"))}),
        ARRAY,
    ),
    Attack(
        "a part that is a matrix",
        in_parts({FIRST: slice(0, 48), SECOND: op.array(np.zeros((4, 12), "<f4"))}),
        ARRAY,
    ),
    Attack("a part that is a text", in_parts({FIRST: slice(0, 48), SECOND: "a" * 48}), ARRAY),
    Attack("a part that is a weight", in_parts(HALVES, slices=[FIRST, WEIGHT]), ARRAY),
    Attack(
        "parts of two weights",
        in_parts(HALVES, told={WEIGHT: {"OriginShape": (8, 12), "slices": [FIRST, SECOND]}}),
        ARRAY,
    ),
    Attack(
        "parts, and the whole too",
        in_parts(HALVES, whole=op.array(np.zeros((8, 12), "<f4"))),
        ARRAY,
    ),
    *rows(
        "parts of a shape {}",
        lambda shape: in_parts(HALVES, shape),
        ARRAY,
        {
            "of other sizes": (8, 13),
            "to be guessed": (8, -1),
            "negative twice": (-8, -12),
            "of 2^64 + 96 numbers": (2**64 + 96,),
            "of nine dimensions": (1,) * 7 + (8, 12),
            "that is a text": "8, 12",
            "that is null": None,
            "that is a tuple of 2^60 things": op.shared_tuple(),
        },
    ),
    *rows(
        "parts told of by {}",
        lambda told: in_parts(HALVES, **{"as": told}),
        ARRAY,
        {
            "a list": [MATRIX],
            "nothing": None,
            "an empty dictionary": {},
            "a list for a weight": {MATRIX: [FIRST, SECOND]},
            "no shape": {MATRIX: {"slices": [FIRST, SECOND]}},
            "no slices": {MATRIX: {"OriginShape": (8, 12)}},
            "no slice": {MATRIX: {"OriginShape": (8, 12), "slices": []}},
            "slices that are a text": {MATRIX: {"OriginShape": (8, 12), "slices": FIRST}},
            "slices that are numbers": {MATRIX: {"OriginShape": (8, 12), "slices": [0, 1]}},
            "slices that are lists": {MATRIX: {"OriginShape": (8, 12), "slices": [[FIRST]]}},
            "itself": op.Ops(b"}q\x00" + op.of(MATRIX) + b"h\x00s"),
            "os.system": op.call(NAMED, BAIT),
        },
    ),
]


def tupled(make: tuple[str, str] | None) -> Builder:
    """Each array with Paddle's own name of it, in a tuple that is called for or plain."""

    def both(number: int, array: op.Ops) -> Any:
        pair = (f"linear_{number}.w_0", array)
        return pair if make is None else calls(make, pair)

    return save(
        lambda sound: op.pickled(
            op.of(
                {
                    name: both(number, array)
                    for number, (name, array) in enumerate(op.arrays(sound.paddle()).items())
                }
            )
        )
    )


def in_latin1(sound: Sound) -> bytes:
    """As Python 3 writes bytes under protocol 2."""
    return sound_paddle(
        sound,
        protocol=2,
        **{
            name: op.array(
                a, raw=calls(("_codecs", "encode"), a.tobytes().decode("latin1"), "latin1")
            )
            for name, a in sound.paddle().items()
        },
    )


SOUND = [
    Attack("as written by hand", save(sound_paddle), LOADS),
    Attack(
        "the file and a configuration given",
        save(sound_paddle),
        LOADS,
        opens=FILE,
        options={"config": SIZES},
    ),
    *rows("protocol {} of numpy's own", by_numpy, LOADS, {"2": 2, "3": 3, "4": 4}),
    Attack("numbers in a text of latin1", save(in_latin1), LOADS),
    Attack(
        "the function's name of numpy 2",
        array(make=op.name("numpy._core.multiarray", "_reconstruct")),
        LOADS,
    ),
    Attack("names by STACK_GLOBAL", array(make=op.stacked(*NUMPY)), LOADS),
    *rows(
        "arrays in tuples {}",
        tupled,
        LOADS,
        {
            "as they are": None,
            "of Python 3": ("builtins", "tuple"),
            "of Python 2": ("__builtin__", "tuple"),
        },
    ),
    *rows(
        "beside the arrays {}",
        beside,
        LOADS,
        {
            "a number": 3,
            "a fraction": 0.5,
            "a text": "2024-01-01",
            "nothing": None,
            "a dictionary of numbers": {"last_epoch": 3, "last_lr": 0.5},
        },
    ),
    Attack(
        "Paddle's own names",
        save(lambda s: sound_paddle(s, **{OWN_NAMES: dict.fromkeys(s.paddle(), "w_0")})),
        LOADS,
    ),
    Attack("an array in parts", in_parts(HALVES), LOADS),
    Attack("arrays that lie by columns", numbers_of(np.asfortranarray), LOADS),
    Attack("half precision", numbers_of(lambda a: a.astype("f2")), LOADS),
    Attack("double precision", numbers_of(lambda a: a.astype("f8")), LOADS),
    *rows(
        "bfloat16, as the configuration's {} says",
        lambda key: numbers_of(lambda a: (a.view("u4") >> 16).astype("u2"), **{key: "bfloat16"}),
        LOADS,
        {"dtype": "dtype", "torch_dtype": "torch_dtype"},
    ),
]

ROWS: list[Attack] = [
    *RUN,
    *LIKE,
    *STATES,
    *NUMBERS,
    *SHAPES,
    *INSTRUCTIONS,
    *KEYS,
    *BOMBS,
    *WHOLE_FILES,
    *IN_PARTS,
    *SOUND,
]
