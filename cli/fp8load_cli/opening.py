"""Opening a SOURCE from the command line: `-` is understood, and slow headers show progress."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from fp8load_cli.output import progress_stream
from fp8load_cli.render.units import size
from fp8load_cli.run import Run

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint
    from fp8load.source.base import ReadMeter

log = logging.getLogger("fp8load.cli")

_DELAY = 0.5
_EVERY = 0.2


@contextmanager
def opened(run: Run, text: str, *, allow_unscaled: bool = False) -> Iterator[Checkpoint]:
    """The checkpoint that `text` names; closed at the end."""
    import fp8load
    from fp8load.source.spec import open_source, parse_source

    spec = parse_source(text, stdin=True)
    if spec.shadows_repo:
        run.out.note(f"{text}: reading the local path, not the repository of the same name")
    source = open_source(spec)
    try:
        with progress(progress_stream(run.settings), source.meter):
            checkpoint = fp8load.open(source, allow_unscaled=allow_unscaled)
        log.debug("opened %s: %d tensors in %d files, %d bytes read in %d requests", source.info.id,
                 len(checkpoint.index.tensors), len(checkpoint.index.files), source.meter.nbytes,
                 source.meter.num_requests)  # fmt: skip
        yield checkpoint
    finally:
        source.close()


@contextmanager
def progress(stream: TextIO | None, meter: ReadMeter) -> Iterator[None]:
    """While the block runs, one line of what has been read, after half a second and on a terminal only."""
    if stream is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_draw, args=(stream, meter, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _draw(stream: TextIO, meter: ReadMeter, done: threading.Event) -> None:
    """Spaces wipe what a longer line leaves: an escape sequence would be drawn where none is wanted (NO_COLOR)."""
    wait, width = _DELAY, 0
    while not done.wait(wait):
        shown = f"reading  {size(meter.nbytes)}  {meter.num_requests} requests"
        stream.write("\r" + shown.ljust(width))
        stream.flush()
        wait, width = _EVERY, len(shown)
    if width:
        stream.write("\r" + " " * width + "\r")
        stream.flush()
