"""What a sender of weights has to deliver: names, shapes, dtypes, what scales mean. Both sides check against it.

    contract = Contract.model_validate_json(Path("contract.json").read_text())     # `fp8load inspect --contract`
    contract.raise_for(contract.check(Offer(name, tuple(t.shape), "BF16") for name, t in ...))

Made from headers alone, and the same for every rank: tensors are whole, as files have them.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from pydantic import ConfigDict, Field

from fp8load.dtypes import DType
from fp8load.errors import LoadError, Problem
from fp8load.report import Report, SourceReport, Tool


class Offer(NamedTuple):
    """A tensor that is about to be delivered, as its header would declare it. `dtype` is a name of safetensors."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Arrival(enum.Enum):
    """What becomes of a tensor: stored as it comes, widened without a loss, or quantized to the layer's scheme."""

    STORED = "stored"
    WIDENED = "widened"
    QUANTIZED = "quantized"


@dataclass(frozen=True, slots=True)
class ContractTensor:
    """One tensor of the checkpoint.

    role    "weight", "weight_scale", ...; "plain" for what is not quantized, "k_scale", ...; "unused" is read by nobody
    group   the tensors of a group mean something together only, and come together: a weight and its scales
    scheme  how the weight is stored, the key of `schemes`; null for plain tensors
    online  the weight may come in 16 or 32 bits instead, alone: the receiver quantizes it, whole, to the scheme
    layout  in which order the bytes lie, where that is not rows of elements one after the other
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    group: str | None = None
    scheme: str | None = None
    online: bool = False
    layout: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractScheme:
    """A way in which weights are quantized.

    real      the number that a code means, in the roles' names; scales are multiplied unless it says otherwise
    block     rows and columns that share a scale; null where a scale is one tensor's or one row's
    rounding  "power-of-two": scales are powers of two by rule
    largest   the largest finite number of the weight's dtype: where weights are quantized, scale = amax / largest
    input     how inputs are quantized; "static": by a stored scale, which keeps its value where none comes
    """

    scheme: str
    count: int
    real: str
    weight_dtype: str
    granularity: str
    block: tuple[int, int] | None
    scale_dtype: str | None
    rounding: Literal["any", "power-of-two"]
    largest: float | None
    input: str


_SAME_BYTES = (
    frozenset({DType.U8, DType.I8, DType.F8_E8M0}),
    frozenset({DType.U8, DType.I8, DType.F4}),
)
"""Names that files and senders have for the same bytes."""

_NARROW = (DType.F16, DType.BF16, DType.F32)
WEIGHT = "weight"
BOTH = "both"


class Contract(Report):
    """What a sender must deliver (`fp8load inspect --contract`)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["fp8load.contract/1"] = Field(default="fp8load.contract/1", alias="schema")
    tool: Tool = Tool()
    source: SourceReport
    digest: str
    schemes: list[ContractScheme]
    tensors: list[ContractTensor]

    def __repr__(self) -> str:
        return f"Contract({self.source.id}: {len(self.tensors):,} tensors)"

    @cached_property
    def terms(self) -> Mapping[str, ContractTensor]:
        """Tensors by name."""
        return {term.name: term for term in self.tensors}

    @cached_property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Names of the tensors of each group."""
        groups: dict[str, list[str]] = defaultdict(list)
        for term in self.terms.values():
            if term.group is not None:
                groups[term.group].append(term.name)
        return groups

    def arrival(self, name: str, dtype: str) -> Arrival | None:
        """What becomes of a tensor of this name and dtype; None where it is refused. Raises `KeyError`."""
        term = self.terms[name]
        given, wanted = DType(dtype), DType(term.dtype)
        if given is wanted or any(given in names and wanted in names for names in _SAME_BYTES):
            return Arrival.STORED
        if term.role == WEIGHT:
            return Arrival.QUANTIZED if term.online and given in _NARROW else None
        if given not in _NARROW or not wanted.is_wide_float:
            return None
        is_number = term.role not in ("plain", "bias")  # scales are F32 in memory, whatever the file has
        return Arrival.WIDENED if is_number or (wanted is DType.F32) else None

    def check(self, offered: Iterable[Offer], *, complete: bool = False) -> list[Problem]:
        """Everything that is wrong with a delivery; empty where it may be written.

        Names that are unknown (FILL720) or come twice (FILL721), shapes (FILL722), dtypes (FILL723), and groups of
        which only a part comes (FILL724); with `complete` also what does not come at all.
        """
        arrivals: dict[str, Arrival] = {}
        problems = self.admit(offered, arrivals)
        if problems:
            return problems
        return [*self.gaps(arrivals), *(self._absent(arrivals) if complete else ())]

    def admit(self, offered: Iterable[Offer], arrivals: dict[str, Arrival]) -> list[Problem]:
        """What is wrong with single tensors; the others are added to `arrivals`, those that came before."""
        problems: list[Problem] = []
        for offer in offered:
            found = self._fault(offer, arrivals)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                arrivals[offer.name] = found
        return problems

    def raise_for(self, problems: Sequence[Problem]) -> None:
        """Raise `LoadError` for the first problem, saying how many more there are."""
        if not problems:
            return
        first, others = problems[0], problems[1:]
        if others:
            listed = ", ".join(problem.tensor for problem in others[:3]) + (", ..." if len(others) > 3 else "")
            first = replace(first, hint=f"{first.hint} ({len(others)} more: {listed})")
        raise LoadError(first)

    def _fault(self, offer: Offer, before: Mapping[str, Arrival]) -> Problem | Arrival:
        term = self.terms.get(offer.name)
        got = f"{offer.dtype} {list(offer.shape)}"
        if term is None:
            return Problem(code="FILL720", message="no tensor of the checkpoint has this name", tensor=offer.name,
                           expected="a name that files have, before anything is fused", got=got,
                           hint=self._near(offer.name))  # fmt: skip
        wanted = f"{term.dtype} {list(term.shape)}"
        if offer.name in before:
            return Problem(code="FILL721", message="a tensor comes twice", tensor=offer.name,
                           expected=f"{wanted}, once", got="a second one",
                           hint="send each name once in an update")  # fmt: skip
        if offer.shape != term.shape and not _same_order(term, offer.shape):
            return Problem(code="FILL722", message="a tensor of this shape does not fit", tensor=offer.name,
                           expected=wanted, got=got, hint="send the whole tensor as files have it, before it is fused "
                           "or split: each rank takes its piece")  # fmt: skip
        arrival = self.arrival(offer.name, offer.dtype) if offer.dtype in DType.__members__.values() else None
        if arrival is None:
            also = ", or BF16, F16, F32 to be quantized" if term.online else ""
            return Problem(code="FILL723", message="a tensor of this dtype does not fit", tensor=offer.name,
                           expected=wanted + also, got=got, hint=_dtype_hint(term, offer.dtype))  # fmt: skip
        return arrival

    def _near(self, name: str) -> str:
        close = (
            f"model.{name}",
            name.removeprefix("model."),
            f"{name}.weight",
            f"{name}_inv",
            name.removesuffix("_inv"),
        )
        known = next((other for other in close if other in self.terms), None)
        return f"did you mean {known}?" if known else "`fp8load inspect --contract` lists the names"

    def is_ready(self, group: str, arrivals: Mapping[str, Arrival]) -> bool:
        """Whether what has come of a group may be written: all of it, or weights alone that are to be quantized."""
        names = self.groups[group]
        come = [arrivals[name] for name in names if name in arrivals]
        return len(come) == len(names) or all(arrival is Arrival.QUANTIZED for arrival in come)

    def gaps(self, arrivals: Mapping[str, Arrival]) -> Iterator[Problem]:
        """Groups that came in part, or both as codes and as what is to be quantized."""
        for group in dict.fromkeys(self.terms[name].group for name in arrivals):
            if group is None:
                continue
            names = self.groups[group]
            wide = [name for name in names if arrivals.get(name) is Arrival.QUANTIZED]
            stored = [name for name in names if name in arrivals and name not in wide]
            missing = [name for name in names if name not in arrivals]
            if wide and stored:
                yield Problem(
                    code="FILL724", message="a weight that is to be quantized comes with a scale of its own",
                    tensor=stored[0], module=group, expected=f"{wide[0]} alone, in 16 or 32 bits", got=BOTH,
                    hint="leave the scale out: it is made of the weight",
                )  # fmt: skip
            elif stored and missing:
                yield self._incomplete(group, stored, missing)

    def _incomplete(self, group: str, stored: Sequence[str], missing: Sequence[str]) -> Problem:
        what = "a weight comes without its scale" if self.terms[stored[0]].role == WEIGHT else (
            "a scale comes without its weight")  # fmt: skip
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        return Problem(
            code="FILL724", message=what, tensor=stored[0], module=group, expected=f"with it {listed}",
            got="no such tensor", hint="a scale belongs to the codes that were made with it: send both",
        )  # fmt: skip

    def _absent(self, arrivals: Mapping[str, Arrival]) -> Iterator[Problem]:
        for name, term in self.terms.items():
            made = term.group is not None and any(
                arrivals.get(other) is Arrival.QUANTIZED for other in self.groups[term.group]
            )
            if name not in arrivals and term.role != "unused" and not (made and term.role != WEIGHT):
                yield Problem(code="FILL724", message="a tensor does not come", tensor=name,
                              expected=f"{term.dtype} {list(term.shape)}", got="nothing",
                              hint="a whole update has every name of the contract")  # fmt: skip


def _same_order(term: ContractTensor, shape: tuple[int, ...]) -> bool:
    """Whether a scale of `shape` holds, in the same order, what the contract's does: axes of one element aside."""
    if term.role in (WEIGHT, "plain", "bias", "unused"):
        return False
    return [size for size in shape if size != 1] == [size for size in term.shape if size != 1]


def _dtype_hint(term: ContractTensor, dtype: str) -> str:
    if term.role == WEIGHT and dtype in {one.value for one in _NARROW}:
        return f"weights of this scheme are not quantized by the receiver ({term.scheme}): send codes and scales"
    return "convert it where it is sent; nothing is rounded here unseen"
