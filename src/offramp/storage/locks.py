"""One saver at a time: a lock file beside what is written, which is gone with the last of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CANNOT_LOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Be the only saver of `path` until the block or the process ends, however that is.

    Waits for another one. False where the system or the file system has no locks: then nobody
    knows what is another saver's. Raises OSError where no file can be made beside `path`.
    """
    handle = _taken(path, shared=False)
    try:
        yield handle is not None
    finally:
        _give_back(handle, path)


@contextmanager
def no_saver(path: Path) -> Iterator[None]:
    """Keep savers of `path` waiting, as far as this process may; readers do not wait."""
    try:
        handle = _taken(path, shared=True)
    except OSError:  # a directory that may not be written to: nor does a saver of this user
        handle = None
    try:
        yield
    finally:
        _give_back(handle, path)


def _taken(path: Path, *, shared: bool) -> int | None:
    """The handle of the lock; None where there are no locks."""
    try:
        import fcntl  # not everywhere
    except ImportError:
        return None
    lock = _lock_file(path)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        handle = _opened(lock)
        try:
            fcntl.flock(handle, kind)
            # Between the opening and the lock the one that had it may have removed it.
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError) and error.errno in _CANNOT_LOCK:
                return None
            raise
        os.close(handle)


def _opened(lock: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(lock, flags | os.O_RDWR, 0o666)
    except PermissionError:  # another user's, which can be locked all the same
        return os.open(lock, flags | os.O_RDONLY, 0o666)


def _give_back(handle: int | None, path: Path) -> None:
    if handle is None:
        return
    import fcntl

    lock = _lock_file(path)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the last of several readers
        if os.path.samestat(os.fstat(handle), lock.stat()):
            lock.unlink()  # those that wait see it, and make another
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has it open too
    os.close(handle)


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
