"""The deletion test: whatever one tensor lacks, has too much of or gets wrong, verify and load both name that tensor.

Every tensor of one layer and every tensor outside the layers, of every real checkpoint, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from oracle.catalog import FOLDER, NAMES, ORPHAN_SCALES, config_of
from oracle.dequantize import Stored, is_scale, tensors
from oracle.rewrite import bf16_vector, cast, one_row_fewer, one_row_more, relabelled, with_one_nan, write_checkpoint

LAYER = {name: number % 2 for number, name in enumerate(NAMES)}
"""The layer whose tensors are taken: the first and the last in turn, because rules may learn from the first."""


class Case(NamedTuple):
    """One damaged checkpoint: the tensor to name, what is stored, and what index.json lists (None: no such file)."""

    subject: str
    stored: dict[str, Stored]
    index: list[str] | None = None


@lru_cache(maxsize=2)
def stored_of(name: str) -> dict[str, Stored]:
    """The tensors of one checkpoint as they are."""
    return tensors(FOLDER / name)


def subjects(name: str) -> list[str]:
    """The tensors that are damaged in turn; not the scales of uninitialised memory, which belong to no weight."""
    return [
        tensor
        for tensor in stored_of(name)
        if (".layers." not in tensor or f".layers.{LAYER[name]}." in tensor)
        and tensor not in ORPHAN_SCALES.get(name, ())
    ]


def removed(name: str) -> Iterator[Case]:
    """The tensor is gone; index.json does not list it either."""
    stored = stored_of(name)
    for subject in subjects(name):
        rest = {tensor: content for tensor, content in stored.items() if tensor != subject}
        yield Case(subject, rest, list(rest))


def removed_from_a_file_without_an_index(name: str) -> Iterator[Case]:
    """The tensor is gone, and there is no index.json."""
    yield from (Case(case.subject, case.stored) for case in removed(name))


def removed_but_still_in_the_index(name: str) -> Iterator[Case]:
    """The tensor is gone; index.json still lists it."""
    yield from (Case(case.subject, case.stored, list(stored_of(name))) for case in removed(name))


def extra_tensors(name: str) -> dict[str, Stored]:
    """Tensors that no model of this family has."""
    hidden = config_of(FOLDER / name)["hidden_size"]
    down = stored_of(name)["model.layers.0.mlp.down_proj.weight"]
    return {
        "model.layers.0.self_attn.extra.weight": bf16_vector(hidden),
        "model.layers.7.input_layernorm.weight": bf16_vector(hidden),
        "model.layers.0.mlp.gate_proj.weight_copy": down,
        "model.layers.0.mlp.down_proj.bias": bf16_vector(hidden),
        "extra": bf16_vector(hidden),
    }


def added(name: str) -> Iterator[Case]:
    """A tensor too many, listed in index.json."""
    for subject, content in extra_tensors(name).items():
        more = {**stored_of(name), subject: content}
        yield Case(subject, more, list(more))


def added_behind_the_index(name: str) -> Iterator[Case]:
    """A tensor too many that index.json does not list."""
    for subject, content in extra_tensors(name).items():
        yield Case(subject, {**stored_of(name), subject: content}, list(stored_of(name)))


def changed(name: str, change: Callable[[Stored], Stored], among: Callable[[str, Stored], bool]) -> Iterator[Case]:
    """Each tensor that `among` takes, changed."""
    for subject in subjects(name):
        content = stored_of(name)[subject]
        if among(subject, content):
            yield Case(subject, {**stored_of(name), subject: change(content)})


def one_row_too_many(name: str) -> Iterator[Case]:
    """The last row twice."""
    yield from changed(name, one_row_more, lambda _, content: True)


def one_row_too_few(name: str) -> Iterator[Case]:
    """Without the last row."""
    yield from changed(name, one_row_fewer, lambda _, content: bool(content.shape))


def weight_labelled_e5m2(name: str) -> Iterator[Case]:
    """The same bytes, called F8_E5M2."""
    yield from changed(
        name, lambda content: relabelled(content, "F8_E5M2"), lambda _, content: content.dtype == "F8_E4M3"
    )


def weight_stored_as_bf16(name: str) -> Iterator[Case]:
    """An FP8 weight became BF16 numbers; its scale stayed."""
    yield from changed(name, lambda content: cast(content, "BF16"), lambda _, content: content.dtype == "F8_E4M3")


def plain_stored_as_f16(name: str) -> Iterator[Case]:
    """A BF16 norm, bias, embedding or head became F16."""
    yield from changed(
        name,
        lambda content: cast(content, "F16"),
        lambda tensor, content: content.dtype == "BF16" and not is_scale(tensor),
    )


def scale_in_another_dtype(name: str) -> Iterator[Case]:
    """An F32 scale became BF16, a BF16 scale F32."""
    yield from changed(
        name,
        lambda content: cast(content, {"BF16": "F32", "F32": "BF16"}[content.dtype]),
        lambda tensor, _: is_scale(tensor),
    )


def scale_with_a_nan(name: str) -> Iterator[Case]:
    """One element of a scale is NaN."""
    yield from changed(name, with_one_nan, lambda tensor, _: is_scale(tensor))


FAULTS = (
    removed,
    removed_from_a_file_without_an_index,
    removed_but_still_in_the_index,
    added,
    added_behind_the_index,
    one_row_too_many,
    one_row_too_few,
    weight_labelled_e5m2,
    weight_stored_as_bf16,
    plain_stored_as_f16,
    scale_in_another_dtype,
    scale_with_a_nan,
)


def facts_about(report, subject: str) -> set[tuple[str, str, str, str]]:
    """What the findings that name a tensor say."""
    return {
        (finding.code, finding.message, finding.expected, finding.got)
        for finding in report.findings
        if subject in finding.tensors and finding.code.startswith("F8L")
    }


def complaints(folder: Path, before, subject: str) -> Iterator[str]:
    """What is wrong with how the library takes one damaged checkpoint; `before` is the report on the undamaged one."""
    import fp8load
    from fp8load.errors import Fp8LoadError

    report = fp8load.open(folder).verify(level="scales")
    if not facts_about(report, subject) - facts_about(before, subject):
        yield "no finding names it"
    if report.ok:
        yield "verify says ok"
    try:
        fp8load.open(folder).plan().load(device="cpu")
    except Fp8LoadError as error:
        if subject not in str(error):
            yield f"load does not name it: {error}"
    else:
        yield "it loads"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_verify_and_load_name_the_tensor_that_is(name, fault, tmp_path):
    import fp8load

    original = write_checkpoint(FOLDER / name, tmp_path / "original", stored_of(name))
    before = fp8load.open(original).verify(level="scales")
    wrong = []
    for number, case in enumerate(fault(name)):
        folder = write_checkpoint(FOLDER / name, tmp_path / str(number), case.stored, case.index)
        wrong += [f"{case.subject}: {complaint}" for complaint in complaints(folder, before, case.subject)]

    assert not wrong, "\n" + "\n".join(wrong)


ORPHANS = [(name, scale) for name in ORPHAN_SCALES for scale in ORPHAN_SCALES[name]]


@pytest.mark.parametrize(("name", "scale"), ORPHANS)
def test_a_scale_beside_an_unquantized_weight_may_go_because_no_reader_uses_it(name, scale, tmp_path):
    import fp8load

    rest = {tensor: content for tensor, content in stored_of(name).items() if tensor != scale}
    ckpt = fp8load.open(write_checkpoint(FOLDER / name, tmp_path / "without", rest, list(rest)))

    assert not facts_about(ckpt.verify(level="scales"), scale)
    assert ckpt.plan().load(device="cpu")


@pytest.mark.parametrize(("name", "scale"), ORPHANS)
def test_a_scale_beside_an_unquantized_weight_is_reported_and_never_multiplied_in(name, scale, tmp_path):
    import fp8load

    nan = {**stored_of(name), scale: with_one_nan(stored_of(name)[scale])}
    ckpt = fp8load.open(write_checkpoint(FOLDER / name, tmp_path / "nan", nan))

    assert facts_about(ckpt.verify(level="scales"), scale)
    assert not any(tensor.isnan().any() for tensor in ckpt.plan().load(device="cpu").tensors.values())
