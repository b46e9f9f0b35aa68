"""Tensors of an update as they come: checked against the contract, held until what belongs to them has come too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, cast

import torch

from fp8load.contract import BOTH, Arrival, Contract, ContractTensor, Offer
from fp8load.dtypes import DType
from fp8load.errors import LoadError, Problem, UsageError
from fp8load.formats.kv_names import KV_ROLES
from fp8load.runtime.dequantize import decode_scale
from fp8load.runtime.dtypes import describe, stored_shape, torch_dtype
from fp8load.runtime.quantize_weight import all_finite, refuse_not_finite
from fp8load.runtime.verdicts import Verdicts
from fp8load.scheme import Role

MAX_HELD_NBYTES = 4 << 30
"""What an update may hold back by default, in bytes: a stack of experts whose scales have not come yet."""

SCALES = (Role.WEIGHT_SCALE, Role.WEIGHT_GLOBAL_SCALE, Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE,
          Role.PRE_QUANT_SCALE, *KV_ROLES)  # fmt: skip


class Delivered(NamedTuple):
    """A tensor that may be written, and what becomes of it."""

    tensor: torch.Tensor
    arrival: Arrival


class Intake:
    """One update on its way in. Nothing is written here.

    Held tensors are copies, so that a sender may use its buffers again, and `max_held_nbytes` bounds them.
    """

    def __init__(self, contract: Contract, max_held_nbytes: int = MAX_HELD_NBYTES) -> None:
        self._contract = contract
        self._arrivals: dict[str, Arrival] = {}
        self._waiting: dict[str, torch.Tensor] = {}
        self._max_held_nbytes = max_held_nbytes
        self._copied: frozenset[str] = frozenset()

    def admit(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Check tensors, each by itself: name, shape, dtype, numbers. Raises `LoadError`: the update is over then."""
        pairs = [_pair(one) for one in named]
        offers = (self._offer(name, tensor) for name, tensor in pairs)
        self._contract.raise_for(self._contract.admit(offers, self._arrivals))
        verdicts = Verdicts()
        for name, tensor in pairs:
            _ask(self._contract.terms[name], tensor, self._arrivals[name], verdicts)
        verdicts.refuse()
        self._waiting.update(pairs)

    def take(self) -> dict[str, Delivered]:
        """What may be written now; what has to wait is held. Raises `LoadError` FILL724, FILL728."""
        terms = self._contract.terms
        come = {group: self._come(group) for group in {terms[name].group for name in self._waiting} if group}
        for arrivals in come.values():  # a scale that comes after its weight was quantized would never be written
            self._contract.raise_for([problem for problem in self._contract.gaps(arrivals) if problem.got == BOTH])
        ready = {group for group, arrivals in come.items() if self._contract.is_ready(group, arrivals)}
        taken = {name: tensor for name, tensor in self._waiting.items() if terms[name].group in {None, *ready}}
        held = {name: tensor for name, tensor in self._waiting.items() if name not in taken}
        self._refuse_too_much(held)
        self._waiting = {name: tensor if name in self._copied else tensor.clone() for name, tensor in held.items()}
        self._copied = frozenset(held)
        return {name: Delivered(tensor, self._arrivals[name]) for name, tensor in taken.items()}

    def finish(self) -> None:
        """Refuse what is still incomplete. Raises `LoadError` FILL724 naming it and what did not come."""
        self._contract.raise_for(list(self._contract.gaps(self._arrivals)))

    def _come(self, group: str) -> dict[str, Arrival]:
        names = self._contract.groups[group]
        return {name: self._arrivals[name] for name in names if name in self._arrivals}

    def _refuse_too_much(self, held: Mapping[str, torch.Tensor]) -> None:
        nbytes = sum(tensor.nbytes for tensor in held.values())
        if nbytes > self._max_held_nbytes:
            first = next(iter(held))
            raise LoadError(Problem(
                code="FILL728", message="an update holds back more than it may: tensors that belong together come far "
                "apart", tensor=first, module=self._contract.terms[first].group or "",
                expected=f"at most {self._max_held_nbytes:,} bytes", got=f"{nbytes:,} bytes in {len(held)} tensors",
                hint="send a weight and its scales next to each other, or pass a larger max_held_nbytes",
            ))  # fmt: skip

    def _offer(self, name: str, tensor: torch.Tensor) -> Offer:
        """The tensor as a header would declare it. Packed elements come as bytes, whatever the header counts."""
        term, shape = self._contract.terms.get(name), tuple(tensor.shape)
        dtype = "F4" if tensor.dtype == torch.float4_e2m1fn_x2 else describe(tensor.dtype)
        if term is not None and DType(term.dtype).bits < 8 and tensor.element_size() == 1:
            fits = shape == stored_shape(DType(term.dtype), term.shape)
            return Offer(name, term.shape if fits else shape, term.dtype)
        return Offer(name, shape, dtype)


def _ask(term: ContractTensor, tensor: torch.Tensor, arrival: Arrival, verdicts: Verdicts) -> None:
    """Whether the numbers of a tensor are such as can be used; other tensors are what they are."""
    if arrival is Arrival.QUANTIZED:
        verdicts.ask(all_finite(tensor), partial(refuse_not_finite, tensor, term.name))
    elif term.role in SCALES:
        stored = DType(term.dtype)
        seen = tensor.view(torch_dtype(stored)) if arrival is Arrival.STORED else tensor.float()
        rounded = stored.is_fp8 and term.role == Role.WEIGHT_SCALE
        ask_scale(verdicts, seen, stored, Scale(term.name, rounded))


class Scale(NamedTuple):
    """A scale as messages name it.

    `zero_is_rounded`: a zero among block scales of E4M3 is a small block's; a scale of the scales stands above it.
    """

    name: str
    zero_is_rounded: bool
    file: str = ""


def ask_scale(verdicts: Verdicts, scale: torch.Tensor, dtype: DType, what: Scale) -> None:
    """Whether a scale, of `dtype` or float32 already, has no NaN, infinity, negative number or zero; else FILL725."""
    verdicts.ask(_good(_values(scale, dtype), what).all(), partial(_refuse_scale, scale, dtype, what))


def _values(scale: torch.Tensor, dtype: DType) -> torch.Tensor:
    return scale if scale.dtype == torch.float32 else decode_scale(scale, dtype)


def _good(values: torch.Tensor, what: Scale) -> torch.Tensor:
    """Which values may be: every comparison with a NaN is False."""
    return (values >= 0 if what.zero_is_rounded else values > 0) & (values < torch.inf)


def _refuse_scale(scale: torch.Tensor, dtype: DType, what: Scale) -> None:
    values = _values(scale, dtype)
    bad = ~_good(values, what)
    at = bad.nonzero()[0].tolist()
    raise LoadError(Problem(
        code="FILL725", message="a scale is not a finite number > 0", tensor=what.name, file=what.file,
        expected="finite numbers " + (">= 0" if what.zero_is_rounded else "> 0"),
        got=f"{values[tuple(at)].item()} at {at}, {int(bad.sum())} of {values.numel()} in all",
        hint="the old weights stay; look for the step that made the scale",
    ))  # fmt: skip


def _pair(one: object) -> tuple[str, torch.Tensor]:
    """A name and a tensor. Raises `UsageError` USE805."""
    match one:
        case (str() as name, torch.Tensor() as tensor):
            return name, tensor
    raise UsageError(Problem(
        code="USE805", message="an update is made of names and tensors", expected="(name, tensor)",
        got=f"({one[0]!r}, {type(one[1]).__name__})" if isinstance(one, tuple) and len(one) == 2 else repr(type(one)),
    ))  # fmt: skip


Named = Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]
"""Tensors by the names that files have."""


def pairs_of(chunk: Named) -> Iterator[tuple[str, torch.Tensor]]:
    """What a chunk holds."""
    if isinstance(chunk, Mapping):
        yield from cast(Mapping[str, torch.Tensor], chunk).items()
    else:
        yield from chunk
