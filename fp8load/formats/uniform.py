"""Tensors that stand in the same place of every layer are stored in one dtype; the odd one out is a fault.

A tensor relabelled from BF16 to F16 keeps its size and loads without an error anywhere. Exporters choose a dtype for
each place (norms in F32, scales in BF16), so a place whose layers disagree was edited or damaged. Only floats of 16
bits and more are compared: which layers are quantized may differ from layer to layer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from fp8load.dtypes import DType
from fp8load.errors import Problem, Severity
from fp8load.index.index import TensorMeta

FEW = 3
"""Fewer tensors than this do not say what is usual."""

_NUMBER = re.compile(r"\.\d+(?=\.)")


def mixed_dtypes(
    tensors: Mapping[str, TensorMeta],
    scales: Collection[str],
    unused: Collection[str],
    *,
    known: bool,
    free: Collection[str] = (),
    heads: Collection[str] = (),
) -> Iterator[Problem]:
    """A problem for each tensor whose dtype differs from its siblings'; for a tie, from the rest of the checkpoint's.

    Where that does not decide either, all of them are named.

    A tensor without siblings (the final norm, the head) is compared with the dtypes that tensors of its kind (scale or
    not) have elsewhere, so that a norm in F32 is a fault only where nothing else is F32; and only in a `known` family,
    whose list of tensors says that nothing single in it has a reason to be different: but what is `free` may be in F32,
    and what stands under one of `free` that ends in a dot is another model. One of `heads` in F32 is noted: fine-tuning
    keeps it so (PEFT's `modules_to_save`), engines compute logits in F32 on request, and it is read without a loss.
    """
    exempt, other_models = tuple(f".{name}" for name in free), tuple(name for name in free if name.endswith("."))
    of_heads = tuple(f".{name}" for name in heads)
    overall: dict[str, Counter[DType]] = defaultdict(Counter)
    families: dict[str, list[TensorMeta]] = defaultdict(list)
    for members in _by_last_component(tensors, unused, exempt):
        if len(members) > 1 and len({meta.dtype for meta in members}) == 1:  # and so is each place among them
            overall[_kind(members[0].name, scales)][members[0].dtype] += len(members)
            continue
        for meta in members:
            families[_NUMBER.sub(".#", meta.name)].append(meta)
    kinds = {family: _kind(members[0].name, scales) for family, members in families.items()}
    for family, members in families.items():
        overall[kinds[family]].update([meta.dtype for meta in members])
    all_scales = sum((counts for kind, counts in overall.items() if kind), Counter[DType]())
    for family, members in families.items():
        common = overall[kinds[family]]
        if len(members) == 1 and kinds[family] and common.total() < FEW:
            common = all_scales
        listed = known and not members[0].name.startswith(other_models) and not _may_be_scale(members[0].name, scales)
        usual = _usual(members, common, known=listed)
        for meta in members:
            if usual is not None and meta.dtype not in usual:
                odd = _odd(meta, usual or common.keys(), is_scale=bool(kinds[family]))
                is_head = len(members) == 1 and f".{meta.name}".endswith(of_heads)
                yield _of_head(odd) if is_head and meta.dtype is DType.F32 else odd


def _kind(name: str, scales: Collection[str]) -> str:
    """What a tensor is compared with where its siblings do not decide: scales of the same name, or all that is none."""
    return name[name.rfind(".") + 1 :] if name in scales else ""


def _may_be_scale(name: str, scales: Collection[str]) -> bool:
    """Whether a tensor that no module has is called like a scale: nothing says what its dtype should be."""
    return name not in scales and "scale" in name[name.rfind(".") + 1 :]


def _usual(members: list[TensorMeta], common: Counter[DType], *, known: bool) -> frozenset[DType] | None:
    """The dtype that members should have; none at all where two have equal claims, None where all is well."""
    if len(members) == 1:
        odd = known and common[members[0].dtype] <= 1 and common.total() >= FEW
        return frozenset({common.most_common(1)[0][0]}) if odd else None
    counts = Counter(meta.dtype for meta in members)
    if len(counts) == 1:
        return None
    ranks = {dtype: (counts[dtype], common[dtype]) for dtype in counts}
    best = [dtype for dtype in ranks if ranks[dtype] == max(ranks.values())]
    return frozenset(best) if len(best) == 1 else frozenset()


def _by_last_component(
    tensors: Mapping[str, TensorMeta], unused: Collection[str], exempt: tuple[str, ...]
) -> Iterable[list[TensorMeta]]:
    """Floats that are compared, by what stands behind the last dot: most often all weights, and all scales."""
    alike: dict[str, list[TensorMeta]] = defaultdict(list)
    wide = {dtype for dtype in DType if dtype.is_wide_float}
    for name, meta in tensors.items():
        is_exempt = meta.dtype is DType.F32 and f".{name}".endswith(exempt)
        if meta.dtype in wide and name not in unused and not is_exempt:
            alike[name[name.rfind(".") + 1 :]].append(meta)
    return alike.values()


def _odd(meta: TensorMeta, usual: Collection[DType], *, is_scale: bool) -> Problem:
    return Problem(
        code="F8L601" if is_scale else "F8L109",
        message="a tensor's dtype differs from that of its siblings",
        tensor=meta.name,
        file=meta.file,
        expected=" or ".join(sorted(usual)) + (", one dtype for all" if len(usual) > 1 else ""),
        got=str(meta.dtype),
        hint="relabelled or re-saved by another tool? compare it with the same tensor of another layer",
    )


def _of_head(odd: Problem) -> Problem:
    return replace(
        odd, message="the head is stored in F32, and the other tensors are not", severity=Severity.INFO, refuses=False,
        hint="exact, and twice the bytes: engines round it to the model's dtype, or are told to keep it",
    )  # fmt: skip
