"""The next window is read and tokenised while torch computes this one."""

from __future__ import annotations

import atexit
import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
W = TypeVar("W")

FEW = 256
"""Rows of a list that is hardly more than a window: nothing of it is worth a thread."""

_PATIENCE = 5.0  # seconds that a stop waits for a source that is being read


@contextmanager
def ahead(
    source: Iterable[T], windows: Callable[[Iterator[T]], Iterator[W]]
) -> Iterator[Iterator[W]]:
    """What `windows` makes of the rows of `source`, made by a thread of its own, one in advance.

    That thread alone reads the source, from beginning to end, and makes the next window once the
    one before it is taken. An error of the source is raised in its place, after the windows of the
    rows before it. When the block ends the thread ends too, and closes a source that is a
    generator. A source that does not answer is waited for a few seconds; the thread then ends
    when it does.
    """
    reader = _Reader(source, windows)
    if isinstance(source, Sized) and len(source) <= FEW:
        yield reader.make()
        return
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(reader.work,), name="ahead", daemon=True)
    thread.start()
    _running[thread] = reader
    try:
        yield reader.taken()
    finally:
        _end(thread)


_running: dict[threading.Thread, _Reader[Any, Any]] = {}


def _end(thread: threading.Thread) -> None:
    reader = _running.pop(thread, None)
    if reader is not None:
        reader.stop()
        thread.join(_PATIENCE)


@atexit.register
def _end_all() -> None:
    """What an error that ends the process keeps alive in its frames: sources are closed all the
    same.
    """
    for thread in list(_running):
        _end(thread)


class _Reader(Generic[T, W]):
    """The windows' maker, and what passes from its thread to the one that takes them."""

    def __init__(self, source: Iterable[T], windows: Callable[[Iterator[T]], Iterator[W]]) -> None:
        self._source = source
        self._windows = windows
        self._failure: BaseException | None = None
        self._stopped = False
        self._wanted = threading.Semaphore(1)
        self._made: SimpleQueue[tuple[W] | BaseException | None] = SimpleQueue()

    def make(self) -> Iterator[W]:
        """The windows; an error of the source comes after those of the rows before it."""
        yield from self._windows(self._rows())
        if self._failure is not None:
            raise self._failure

    def work(self) -> None:
        """Make windows, each when it is wanted: what the thread does."""
        try:
            windows = self.make()
            while self._wanted.acquire() and not self._stopped:
                window = next(windows, None)
                if window is None:
                    break
                self._made.put((window,))
            self._made.put(None)
        except BaseException as error:
            self._made.put(error)
        finally:
            if isinstance(self._source, Generator):
                self._source.close()

    def taken(self) -> Iterator[W]:
        """The windows as they are ready, for the thread that uses them."""
        while (found := self._made.get()) is not None:
            if isinstance(found, BaseException):
                try:
                    raise found
                finally:
                    del found  # this frame would keep the error, and the error this frame
            self._wanted.release()
            yield found[0]

    def stop(self) -> None:
        """Let the thread end: the source, as far as windows can tell, has no more rows."""
        self._stopped = True
        self._wanted.release()

    def _rows(self) -> Iterator[T]:
        rows = iter(self._source)
        while not self._stopped:
            try:
                row = next(rows)
            except StopIteration:
                return
            except BaseException as error:
                self._failure = error
                return
            yield row
