"""Does the engine have code for this: place, dialect, algorithm, kind of each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fp8load.engines.profile import DriftFact, FormatFact, Profile
from fp8load.engines.stored import Held, Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.errors import Severity
from fp8load.formats.unquantized import UNQUANTIZED
from fp8load.scheme import PerBlock, Role

PLAIN = "`Checkpoint.plain_tensors` gives the unquantized checkpoint, which it reads"
OTHERWISE = "another method, or the same in another layout"
OTHER = "use another engine, without --engine `verify` says which load it; or quantize again"


def schemes(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """What the engine has no code for; the first of place, dialect and algorithm, else kinds and transforms."""
    fmt = stored.checkpoint.format
    if fmt.name == UNQUANTIZED.name:
        return
    first = next(_whole(profile, stored), None)
    if first is not None:
        yield first
        return
    fact, other = profile.formats[fmt.name], PLAIN if profile.role == "converter" else OTHER
    for held in stored.held:
        yield from (replace(verdict, remedy=other) for verdict in _held(fact, held, stored))


def _held(fact: FormatFact, held: Held, stored: Stored) -> Iterator[Verdict]:
    """What is wrong with layers of one scheme."""
    yield from _kinds(fact, held, stored)
    yield from _weights(fact, held, stored)
    yield from _sizes(fact, held, stored)
    yield from _transforms(fact, held, stored)


def _whole(profile: Profile, stored: Stored) -> Iterator[Verdict]:
    """What is wrong with the configuration as a whole."""
    fmt, places = stored.checkpoint.format, profile.places
    if places is not None and fmt.place not in places.reads:
        yield Verdict(text=f"does not look for a configuration there: {places.otherwise}", file=fmt.place,
                      expected=" or ".join(places.reads), got=fmt.place,
                      remedy="copy the configuration to config.json quantization_config")  # fmt: skip
    fact = profile.formats.get(fmt.name)
    if fact is None:
        yield Verdict(text="has no reader for this quantization method", file=fmt.place,
                      expected=f"one of {', '.join(sorted(profile.formats))}", got=fmt.name,
                      remedy=PLAIN)  # fmt: skip
        return
    algo = algo_of(stored.document)
    if fact.algos is not None and algo is not None and algo not in fact.algos:
        yield Verdict(text="does not know this quant_algo", file=fmt.place, expected=f"one of {', '.join(fact.algos)}",
                      got=algo, remedy=OTHER)  # fmt: skip
    groups = stored.document.get("config_groups")
    if fact.groups is not None and isinstance(groups, Mapping) and len(groups) > fact.groups:
        yield Verdict(text=f"does not tell config groups apart: {fact.ungrouped}", file=fmt.place,
                      expected=f"{fact.groups} of them", got=", ".join(groups),
                      remedy=PLAIN if profile.role == "converter" else OTHER)  # fmt: skip


def algo_of(document: Mapping[str, Any]) -> str | None:
    """ModelOpt's quant_algo in either of its layouts, in capitals."""
    inner = document.get("quantization")
    algo = (inner if isinstance(inner, Mapping) else document).get("quant_algo")
    return algo.upper() if isinstance(algo, str) else None


def _kinds(fact: FormatFact, held: Held, stored: Stored) -> Iterator[Verdict]:
    known = fact.experts if held.is_expert and fact.experts is not None else fact.linears
    readers = fact.families.get(held.kind)
    if known is None or (held.kind in known and (readers is None or stored.family in readers)):
        return
    what = "experts" if held.is_expert else "linear layers"
    text = f"has no code for {what} of this kind ({held.kind})"
    if held.kind in known and readers is not None:
        text = f"reads {what} of this kind ({held.kind}) in {', '.join(readers)} only"
    listed = ", ".join(kind for kind in known if kind != held.kind) or "none"
    for info in held.modules:
        tensor, file = stored.stored_tensor(info, Role.WEIGHT)
        yield Verdict(text=text, module=info.name, tensor=tensor, file=file, expected=f"one of {listed}",
                      got=str(held.scheme), remedy=OTHER)  # fmt: skip


def _weights(fact: FormatFact, held: Held, stored: Stored) -> Iterator[Verdict]:
    """Weights of a kind that the engine takes in another dtype only: eight in a word, or one in a byte."""
    known = fact.weights.get(held.kind)
    for info in held.modules if known is not None else ():
        tensor, file = stored.stored_tensor(info, Role.WEIGHT)
        dtype = stored.checkpoint.index.tensors[tensor].dtype.value
        if known is not None and dtype not in known:
            yield Verdict(text=f"takes weights of this kind ({held.kind}) as {' or '.join(known)} only", file=file,
                          module=info.name, tensor=tensor, expected=" or ".join(known), got=dtype,
                          remedy=OTHER)  # fmt: skip


def _sizes(fact: FormatFact, held: Held, stored: Stored) -> Iterator[Verdict]:
    block = held.scheme.weight.granularity
    if not fact.sizes or not isinstance(block, PerBlock) or (block.rows, block.cols) in fact.sizes:
        return
    sizes = " or ".join(f"{rows} x {cols}" for rows, cols in fact.sizes)
    for info in held.modules:
        tensor, file = stored.stored_tensor(info, Role.WEIGHT_SCALE)
        yield Verdict(text=f"takes blocks of {sizes} only", module=info.name, tensor=tensor, file=file,
                      expected=sizes, got=f"{block.rows} x {block.cols}", remedy=OTHER)  # fmt: skip


def _transforms(fact: FormatFact, held: Held, stored: Stored) -> Iterator[Verdict]:
    foreign = [str(transform) for transform in held.scheme.transforms if transform not in fact.transforms]
    if not foreign or fact.linears is None:
        return
    for info in held.modules:
        tensor, file = stored.stored_tensor(info, Role.WEIGHT)
        yield Verdict(text=f"does not apply {', '.join(foreign)}", module=info.name, tensor=tensor, file=file,
                      expected="weight and scales only", got=", ".join(foreign), remedy=OTHER)  # fmt: skip


def drift(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Keys that this version reads in another way than the one that the configuration was written for."""
    inner = stored.document.get("quantization")
    is_nested = isinstance(inner, Mapping)
    document = inner if isinstance(inner, Mapping) else stored.document
    for fact in profile.drift:
        other_layout = (fact.nested and not is_nested) or (fact.flat and is_nested)
        if fact.format != stored.format or not document or other_layout:
            continue
        if (not fact.algos or algo_of(stored.document) in fact.algos) and _applies(fact, document):
            is_lost = fact.loud or fact.spoils
            yield Verdict(
                text=fact.effect, file=stored.checkpoint.format.place, remedy=fact.remedy, loads=not is_lost,
                expected=_expected(fact), got=_got(fact, stored.document),
                severity=Severity.ERROR if is_lost else Severity.WARNING,
            )  # fmt: skip


def _expected(fact: DriftFact) -> str:
    """What the configuration would have to have."""
    absent = fact.has or fact.null
    return fact.lacks or (f"no {absent}" if absent else OTHERWISE)


def _got(fact: DriftFact, document: Mapping[str, Any]) -> str:
    """What it has instead."""
    if fact.null:
        return f"{fact.null}: null"
    return fact.has or (f"no {fact.lacks}" if fact.lacks else _called(document))


def _called(document: Mapping[str, Any]) -> str:
    """What a configuration calls its method: ModelOpt's quant_algo, or quant_method."""
    return algo_of(document) or str(document.get("quant_method"))


def _applies(fact: DriftFact, document: Mapping[str, Any]) -> bool:
    """Whether the keys are such as the fact is about. A list that is null says as much as one that is not there."""
    is_there = not fact.has or document.get(fact.has) not in (None, [], "")
    absent = fact.lacks not in document if fact.nullable else document.get(fact.lacks) is None
    is_null = not fact.null or (fact.null in document and document[fact.null] is None)
    are_said = all(document.get(key) == value for key, value in fact.says.items())
    return is_there and is_null and are_said and (not fact.lacks or absent)
