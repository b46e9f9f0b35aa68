"""Reads by threads of the C library (POSIX AIO, aio(7)), which do not wait for Python's lock.

A dozen Python threads that read for a GPU wake each other some ten thousand times a second, and each waits for the
others longer than for bytes (docs/benchmarks). Here one thread starts reads and waits for them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from errno import EAGAIN, EINPROGRESS, EINTR
from functools import cache
from typing import Any, NamedTuple

_SIGEV_NONE = 1
_LIO_NOWAIT, _LIO_READ = 1, 0


class Read(NamedTuple):
    """`nbytes` from `offset` of a file to `address`."""

    descriptor: int
    address: int
    nbytes: int
    offset: int


class _Control(ctypes.Structure):
    """`struct aiocb` of <aio.h>, where pointers have 64 bits: glibc and musl agree as far as it is used here."""

    _fields_ = (
        ("aio_fildes", ctypes.c_int),
        ("aio_lio_opcode", ctypes.c_int),
        ("aio_reqprio", ctypes.c_int),
        ("aio_buf", ctypes.c_void_p),
        ("aio_nbytes", ctypes.c_size_t),
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_rest", ctypes.c_byte * 48),
        ("internal", ctypes.c_byte * 32),
        ("aio_offset", ctypes.c_int64),
        ("reserved", ctypes.c_byte * 32),
    )


_CONTROL_NBYTES = 168
_NOTHING = ctypes.POINTER(_Control)()


class _Library:
    """The functions. Starting takes microseconds and keeps Python's lock; waiting lets other threads run."""

    def __init__(self, short: Any, long: Any) -> None:
        self.start = short.lio_listio
        self.error, self.result, self.cancel = short.aio_error, short.aio_return, short.aio_cancel
        self.suspend = long.aio_suspend
        self.result.restype = ctypes.c_ssize_t
        one = [ctypes.POINTER(_Control)]
        self.error.argtypes = self.result.argtypes = one
        self.start.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.POINTER(_Control)), ctypes.c_int, ctypes.c_void_p]
        self.cancel.argtypes = [ctypes.c_int, *one]
        self.suspend.argtypes = [ctypes.POINTER(ctypes.POINTER(_Control)), ctypes.c_int, ctypes.c_void_p]


@cache
def _library() -> _Library | None:
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8 or ctypes.sizeof(_Control) != _CONTROL_NBYTES:
        return None
    for name in (None, "librt.so.1"):  # glibc before 2.34 has them in a library of their own
        try:
            return _Library(ctypes.PyDLL(name, use_errno=True), ctypes.CDLL(name, use_errno=True))
        except (OSError, AttributeError):
            continue
    return None


def is_available() -> bool:
    """Whether this system has them."""
    return _library() is not None


class AsyncReads:
    """Up to `count` reads at the same time, each in a slot, a number from 0 on. For one thread.

    Memory that is read into has to stay until its read ended: `finish` waits for all.
    """

    def __init__(self, count: int) -> None:
        library = _library()
        if library is None:
            raise OSError("this system has no POSIX AIO")
        self._library = library
        self._controls = [_Control() for _ in range(count)]
        self._pointers = [ctypes.pointer(control) for control in self._controls]
        self._waiting = (ctypes.POINTER(_Control) * count)()
        self._descriptors = [(-1, -1)] * count
        self._busy: set[int] = set()

    @property
    def room(self) -> int:
        """How many more reads can start."""
        return len(self._controls) - len(self._busy)

    @property
    def is_idle(self) -> bool:
        """Whether none is under way."""
        return not self._busy

    def start(self, wanted: Sequence[Read]) -> list[int]:
        """Start reads, in one call, for which there is room; their slots. Raises `OSError` where the system takes no
        more: then nothing that did start is waited for but by `finish`."""
        slots = [slot for slot in range(len(self._controls)) if slot not in self._busy][: len(wanted)]
        for slot, read in zip(slots, wanted, strict=True):
            control = self._controls[slot]
            control.aio_fildes = self._own(slot, read.descriptor)
            control.aio_buf, control.aio_nbytes, control.aio_offset = read.address, read.nbytes, read.offset
            control.aio_lio_opcode, control.sigev_notify = _LIO_READ, _SIGEV_NONE
        self._busy.update(slots)  # before any starts, so that `finish` waits for it, whatever comes between
        for slot in slots:
            self._waiting[slot] = self._pointers[slot]
        several = (ctypes.POINTER(_Control) * len(slots))(*(self._pointers[slot] for slot in slots))
        if self._library.start(_LIO_NOWAIT, several, len(slots), None) != 0:
            raise _error(ctypes.get_errno())
        return slots

    def wait(self) -> Sequence[tuple[int, int | OSError]]:
        """The slots whose reads have ended, each with the bytes that were read, or why there are none. May be empty
        after a signal."""
        if self._library.suspend(self._waiting, len(self._controls), None) != 0:
            number = ctypes.get_errno()
            if number not in (EAGAIN, EINTR):
                raise _error(number)
        ended: list[tuple[int, int | OSError]] = []
        for slot in sorted(self._busy):
            number = self._library.error(self._pointers[slot])
            if number != EINPROGRESS:
                count = self._library.result(self._pointers[slot])
                ended.append((slot, _error(number) if number else count))
                self._busy.discard(slot)
                self._waiting[slot] = _NOTHING
        return ended

    def finish(self) -> None:
        """Take back what has not begun, wait for the rest, and close files."""
        for slot in self._busy:
            self._library.cancel(self._controls[slot].aio_fildes, self._pointers[slot])
        while not self.is_idle:
            self.wait()
        for _, own in self._descriptors:
            if own >= 0:
                os.close(own)
        self._descriptors = [(-1, -1)] * len(self._controls)

    def _own(self, slot: int, descriptor: int) -> int:
        """The same open file under a number of the slot's own: reads of one number are done one after the other."""
        of, own = self._descriptors[slot]
        if of != descriptor:
            if own >= 0:
                self._descriptors[slot] = (-1, -1)
                os.close(own)
            own = os.dup(descriptor)
            self._descriptors[slot] = (descriptor, own)
        return own


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
