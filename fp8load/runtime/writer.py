"""Layers of a live model made new, each as a whole or not at all.

Everything that takes memory on the way to a layer's new values (quantizing, converting, moving to the device) is done
before the first of them is written. Then they are swapped in, and what backends derive is made again. Where that fails
the old values are swapped back. Where even that fails the layer is torn: it refuses to run until all of it came anew.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from fp8load.errors import Fp8LoadError, LoadError, Problem
from fp8load.runtime.exchange import Exchange, Placed
from fp8load.runtime.live import Live, Owner, layer_of
from fp8load.runtime.requantize import requantize_to_max_
from fp8load.runtime.seal import seal
from fp8load.runtime.typed import TypedParameter


class _Change(NamedTuple):
    """One layer's way from old to new, and back.

    names, params  the stored tensors that it brings, and the parameters that they are a part of
    slots          of typed parameters that are written; `torn` are those that hold nothing of use before
    owners         layers in which something is derived from them
    kept           copies of what changes beyond what is written
    """

    names: frozenset[str]
    params: Sequence[str]
    exchange: Exchange
    slots: Sequence[tuple[TypedParameter, str]]
    torn: Sequence[tuple[TypedParameter, str]]
    owners: Sequence[Owner]
    kept: Sequence[tuple[TypedParameter, torch.Tensor]]

    def mark_written(self) -> None:
        """All slots: their layers see that something changed."""
        for param, slot in self.slots:
            param.mark_written(slot)

    def take_back(self) -> None:
        """Everything as it was before."""
        self.exchange.take_back()
        for param, value in self.kept:
            param.detach().copy_(value)
        self.mark_written()
        for param, slot in self.torn:
            param.mark_torn(slot)


class Writer:
    """Writes into one model, and knows what became new and what was torn.

    new             stored tensors that are in the model since `begin`
    requantize_max  fused parts have one scale, as they were loaded
    """

    def __init__(self, live: Live, *, requantize_max: bool) -> None:
        self._live = live
        self._requantize_max = requantize_max
        self._missing: dict[str, frozenset[str]] = {}
        self.new: frozenset[str] = frozenset()

    @property
    def torn(self) -> frozenset[str]:
        """Parameters that hold neither their old values nor new ones."""
        return frozenset(self._missing)

    def begin(self) -> None:
        """Another update: nothing of it is written yet."""
        self.new = frozenset()

    def write(self, names: frozenset[str], stage: Callable[[], list[Placed]]) -> None:
        """Make one layer new: `names` are the stored tensors that fill what `stage` gives.

        Raises `LoadError` FILL730 where it fails; the layer then has its old values, or is torn.
        """
        homes = self._live.layers_of(sorted(names)) or ("",)
        where = layer_of(homes[0]) if len(homes) > 1 else homes[0]
        try:
            self._write(names, stage())
        except Fp8LoadError:
            raise
        except Exception as error:
            is_torn = bool(self._live.names_of(self._missing) & names)
            raise LoadError(Problem(
                code="FILL730", message="a layer could not be written", module=where, expected="its new weights",
                got=f"{type(error).__name__}: {error}".splitlines()[0],
                hint="it is torn, and refuses to run" if is_torn else "it has its old weights",
            )) from error  # fmt: skip

    def _write(self, names: frozenset[str], placed: list[Placed]) -> None:
        change = self._change(names, placed)
        placed.clear()  # the exchange has them, and gives their memory back
        new, missing = self.new, self._missing
        try:
            change.exchange.swap()
            change.mark_written()
            self._refresh(change.owners)
            self._missing = _without(missing, names)
            self.new = new | names
        except BaseException as error:
            self.new, self._missing = new, missing
            if isinstance(error, torch.OutOfMemoryError):
                traceback.clear_frames(error.__traceback__)  # with what they had allocated
            self._take_back(change, error)
            raise

    def _take_back(self, change: _Change, error: BaseException) -> None:
        """The old values again, and what is derived from them; what cannot be put back is torn."""
        with self._or_torn(change, change.params, error):
            change.take_back()
        for owner in change.owners:
            own = {param.full_name for param in owner.typed()}
            with self._or_torn(change, [name for name in change.params if name in own], error):
                self._refresh([owner])

    @contextmanager
    def _or_torn(self, change: _Change, params: Collection[str], error: BaseException) -> Iterator[None]:
        """Parameters are torn where what is done fails, which is noted beside the error that came first."""
        try:
            yield
        except BaseException as again:
            self._tear(change, params)
            if not isinstance(again, Exception):
                raise
            error.add_note(f"and its old weights could not be put back: {type(again).__name__}: {again}")

    def _change(self, names: frozenset[str], placed: Sequence[Placed]) -> _Change:
        """Everything that writing takes, and taking it back."""
        params = list(dict.fromkeys(one.param for one in placed))
        owners, targets = self._owners(params), self._live.targets()
        slots = [(param, slot) for one in placed if isinstance(param := targets[one.param], TypedParameter)
                 for slot in ([one.slot] if one.slot else param.written)]  # fmt: skip
        torn = [(param, slot) for param, slot in slots if slot in param.torn]
        return _Change(names, params, Exchange(placed), slots, torn, owners, self._requantized(owners))

    def _owners(self, params: Collection[str]) -> list[Owner]:
        modules = {self._live.plan.params[name].module for name in params}
        return [owner for name, owner in self._live.owners().items() if name in modules]

    def _requantized(self, owners: Iterable[Owner]) -> list[tuple[TypedParameter, torch.Tensor]]:
        """Copies of what requantizing changes beyond what is written: the codes of all parts."""
        if not self._requantize_max:
            return []
        changed = (param for owner in owners for param in (owner.weight, owner.weight_scale) if param is not None)
        return [(param, param.detach().clone()) for param in changed]

    def _refresh(self, owners: Sequence[Owner]) -> None:
        """What is derived from parameters. A layer of which a part is still torn waits for the rest of it."""
        whole = [owner for owner in owners if all(all(param.written.values()) for param in owner.typed())]
        for owner in whole if self._requantize_max else ():
            requantize_to_max_(owner)
        stale = [owner for owner in whole if owner.is_stale]
        seal(param for owner in stale for param in owner.typed())  # together: a device is waited for once
        for owner in stale:
            owner.refresh(is_sealed=True)

    def _tear(self, change: _Change, params: Collection[str]) -> None:
        for param, slot in change.slots:
            if param.full_name in params:
                param.mark_torn(slot)
        wanted = {param: self._live.names_of([param]) & change.names for param in params}
        self._missing = {param: self._missing.get(param, frozenset()) | wanted.get(param, frozenset())
                         for param in {**self._missing, **wanted}}  # fmt: skip


def _without(missing: Mapping[str, frozenset[str]], names: frozenset[str]) -> dict[str, frozenset[str]]:
    """What of torn parameters has still to come."""
    left = {param: wanted - names for param, wanted in missing.items()}
    return {param: wanted for param, wanted in left.items() if wanted}
