"""`LoadedModel.reload`: new weights in place, refused as a whole or in whole groups, never written by halves unseen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import torch

from fp8load.errors import Fp8LoadError, LoadError, Problem, UsageError
from fp8load.runtime.intake import Delivered, Intake, Named, pairs_of
from fp8load.runtime.live import Live
from fp8load.runtime.replace_all import commit, layout_fault, refuse_names, refuse_scales, stored_chunks
from fp8load.runtime.updates import Received
from fp8load.runtime.writer import Writer

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

Update: TypeAlias = "str | Path | Checkpoint | Named | Iterable[Named]"
"""A checkpoint, named tensors, or chunks of them."""

LISTED = 4


class Reloaded(NamedTuple):
    """What a reload did: stored tensors that are new, and the layers (and other tensors) that they are in."""

    num_tensors: int
    layers: tuple[str, ...]


class Reloader:
    """Brings updates into one model, and remembers one that broke off."""

    def __init__(self, live: Live, *, requantize_max: bool) -> None:
        self._live = live
        self._writer = Writer(live, requantize_max=requantize_max)
        self._newer: frozenset[str] = frozenset()

    @property
    def mixed(self) -> tuple[str, ...]:
        """See `LoadedModel.mixed`."""
        return self._live.layers_of(sorted(self._newer))

    @property
    def torn(self) -> tuple[str, ...]:
        """See `LoadedModel.torn`."""
        return self._live.homes_of(sorted(self._writer.torn))

    def reload(self, update: object, max_held_nbytes: int) -> Reloaded:
        """See `LoadedModel.reload`."""
        if isinstance(update, Received):
            with update:  # whose end is that of the reload: what it raises is what the sender hears
                return self._reload(update, max_held_nbytes)
        return self._reload(update, max_held_nbytes)

    def _reload(self, update: object, max_held_nbytes: int) -> Reloaded:
        from fp8load.checkpoint import Checkpoint

        if isinstance(update, Checkpoint):
            return self._checkpoint(update)
        if isinstance(update, str | Path):
            import fp8load

            with fp8load.open(update) as opened:
                return self._checkpoint(opened)
        intake = Intake(self._live.plan.contract, max_held_nbytes)
        if isinstance(update, Mapping):
            return self._named(intake, update.items())
        if not isinstance(update, Iterable):
            raise UsageError(Problem(
                code="USE805", message="this is no update",
                expected="a checkpoint, names and tensors, or chunks of them", got=type(update).__name__,
            ))  # fmt: skip
        iterator = iter(cast("Iterable[object]", update))
        first = next(iterator, None)
        if first is None or _is_pair(first):
            return self._named(intake, cast("Iterable[tuple[str, torch.Tensor]]", _with_first(first, iterator)))
        with closing(_with_first(first, iterator)) as chunks:
            return self._chunks(intake, cast("Iterable[Named]", chunks))

    def _named(self, intake: Intake, named: Iterable[tuple[str, torch.Tensor]]) -> Reloaded:
        """All checked, then all written."""
        intake.admit(named)
        intake.finish()
        return self._recorded(lambda: self._write([intake.take()]))

    def _chunks(self, intake: Intake, chunks: Iterable[Named]) -> Reloaded:
        def ready() -> Iterator[dict[str, Delivered]]:
            for chunk in chunks:
                intake.admit(pairs_of(chunk))
                yield intake.take()
            intake.finish()

        return self._recorded(lambda: self._write(ready()))

    def _write(self, batches: Iterable[Mapping[str, Delivered]]) -> None:
        for part in (part for batch in batches for part in self._live.by_layer(batch)):
            self._writer.write(self._live.made_of(part), partial(self._live.staged, part))

    def _checkpoint(self, checkpoint: Checkpoint) -> Reloaded:
        plan, rank = self._live.plan, self._live.plan.rank
        new = checkpoint.plan(
            tp_rank=rank.tp_rank, tp_size=rank.tp_size, ep_rank=rank.ep_rank, ep_size=rank.ep_size
        )  # fmt: skip
        fault = layout_fault(plan, new)
        if fault is None:
            refuse_scales(new)
            return self._recorded(lambda: commit(self._live, new, self._writer))
        if new.layers or not plan.layers:
            raise LoadError(fault)
        refuse_names(plan, new)
        return self._chunks(Intake(plan.contract), stored_chunks(new))

    def _recorded(self, write: Callable[[], None]) -> Reloaded:
        """Write, and remember where it broke off."""
        self._writer.begin()
        try:
            write()
        except BaseException as error:
            new = self._writer.new
            self._newer |= new
            if not isinstance(error, Exception) or not (new or self._writer.torn):
                raise
            raise self._broken_off(error, new) from error
        new = self._writer.new
        if self._newer:
            self._newer |= new
        if self._newer >= self._live.required:
            self._newer = frozenset()
        return Reloaded(len(new), self._live.layers_of(sorted(new)))

    def _broken_off(self, error: Exception, new: frozenset[str]) -> LoadError:
        """One error that says what is new and what is old."""
        newer = self._live.layers_of(sorted(new))
        torn = self.torn
        older = [name for name in self._live.layers_of(sorted(self._live.required)) if name not in {*newer, *torn}]
        state = f"new: {_some(newer)}; old: {_some(older)}; "
        state += f"torn: {_some(torn)}; " if torn else ""
        state += "reload all of it again (model.mixed" + (", model.torn)" if torn else ")")
        if isinstance(error, LoadError):
            hint = f"{error.hint}; {state}" if error.hint else state
            return type(error)(replace(error.problem, hint=hint))
        known = error.problem if isinstance(error, Fp8LoadError) else Problem(code="", message=str(error))
        return LoadError(Problem(
            code="FILL727", message="an update broke off: the model has weights of two versions", tensor=known.tensor,
            file=known.file, expected="the whole update", hint=state,
            got=f"{type(error).__name__}: {known.message} {known.got}".strip(),
        ))  # fmt: skip


def _is_pair(first: object) -> bool:
    return isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], str)


def _with_first(first: object, rest: Iterator[object]) -> Generator[object]:
    """The items again. Closing it closes the sender's generator, which goes on with its protocol."""
    try:
        if first is not None:
            yield first
        yield from rest
    finally:
        if isinstance(rest, Generator):
            rest.close()


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return f"{len(names)} ({listed})" if names else "none"
