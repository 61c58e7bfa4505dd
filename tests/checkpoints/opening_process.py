"""The process that opens attacks: a request is a line of JSON, and so is what came of it.

Run as a script. The test's own process never opens a hostile file, so that one that kills, hangs or
fills memory is a failed row and not the end of the tests.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from attack_kit import digest_of

import offramp

ROOM = 4 << 30
"""Bytes that the process may map beyond what it starts with: a bomb ends here, not in swap.

No attack's file is as long, holes counted, so that it can be mapped."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_WATCHED = ("subprocess.", "os.", "shutil.", "socket.", "ctypes.dlopen", "pickle.find_class", "pty")
_READING = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr")


class Watch:
    """What reading a file has no business to do: run, write, connect, look a pickle's class up.

    https://docs.python.org/3/library/audit_events.html
    """

    def __init__(self) -> None:
        self.found: list[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.found is None:
            return
        if event == "open":
            suspect = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        else:
            suspect = event.startswith(_WATCHED) and event not in _READING
        if suspect:
            self.found.append(f"{event} {str(arguments)[:200]}")


def resident(field: str = "VmRSS") -> int | None:
    """Bytes of memory now, or with "VmHWM" the most since `forget_peak`; None without /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


def forget_peak() -> bool:
    """Whether the peak could be set back to what is resident now."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return False
    return True


def opened(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """What came of `BertModel.from_pretrained`."""
    if "config" in options:
        options["config"] = offramp.BertConfig(**options["config"])
    try:
        model = offramp.BertModel.from_pretrained(path, **options)
    except Exception as error:
        return {
            "errors": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            **{name: getattr(error, name, "absent") for name in ("kind", "file", "offset")},
        }
    state = model.state_dict()
    if sum(tensor.numel() for tensor in state.values()) > 10**6:  # these are not the sound ones
        return {"errors": [], "digest": None}
    arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
    return {"errors": [], "digest": digest_of(arrays)}


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # what anything prints is no answer
    watch, imported = Watch(), None
    size = resident("VmSize")
    if size is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    warnings.simplefilter("error")
    for line in sys.stdin:
        request = json.loads(line)
        measurable = forget_peak()
        watch.found = []
        answer = opened(request["path"], request["options"])
        answer["did"], watch.found = watch.found, None
        peak = resident("VmHWM") if measurable else None
        if request["warm"]:
            gc.freeze()  # what is imported stays, so that to look through it each time is in vain
            forget_peak()
            imported = resident()
        elif peak is not None and imported is not None:
            answer["memory"] = peak - imported
        os.write(answers, json.dumps(answer, default=repr).encode() + b"\n")


if __name__ == "__main__":
    main()
