"""Checkpoints with one thing wrong: every tensor of every checkpoint, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from oracle.catalog import FOLDER, ORPHAN_SCALES, config_of
from oracle.dequantize import Stored, is_scale, tensors
from oracle.rewrite import bf16_vector, cast, one_column_more, one_row_fewer, one_row_more, relabelled, with_one_nan


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
    return [tensor for tensor in stored_of(name) if tensor not in ORPHAN_SCALES.get(name, ())]


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
        "model.layers.2.input_layernorm.weight": bf16_vector(hidden),
        "layers.0.input_layernorm.weight": bf16_vector(hidden),
        "model.norm.bias": bf16_vector(hidden),
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


def added_cache_scale(name: str) -> Iterator[Case]:
    """A scale of the KV cache, or of the queries, in one layer of a checkpoint that has none or spells it otherwise."""
    for subject in ("model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.q_scale"):
        if subject not in stored_of(name):
            more = {**stored_of(name), subject: Stored("F32", (), b"\x00\x00\x80\x3f")}
            yield Case(subject, more, list(more))


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


def one_column_too_many(name: str) -> Iterator[Case]:
    """The last column of a matrix twice."""
    yield from changed(name, one_column_more, lambda _, content: len(content.shape) == 2)


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


HEAD = "lm_head.weight"


def plain_stored_as_f32(name: str) -> Iterator[Case]:
    """A BF16 norm, bias or embedding became F32. A head in F32 is legal: fine-tuning and engines keep it so."""
    yield from changed(
        name,
        lambda content: cast(content, "F32"),
        lambda tensor, content: content.dtype == "BF16" and not is_scale(tensor) and tensor != HEAD,
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
    added_cache_scale,
    one_row_too_many,
    one_row_too_few,
    one_column_too_many,
    weight_labelled_e5m2,
    weight_stored_as_bf16,
    plain_stored_as_f16,
    plain_stored_as_f32,
    scale_in_another_dtype,
    scale_with_a_nan,
)
