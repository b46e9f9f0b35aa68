"""What one tensor of a 4-bit, microscaling or mixture checkpoint gets wrong is named by verify and by load.

As `test_deletion.py` does for FP8: reshaped, retyped, one scale no number. Removal and what is added are tested there
and beside the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fp8load
from oracle import microscaling, mixtures
from oracle.catalog import FOLDER
from oracle.damage import HEAD
from oracle.dequantize import Stored, tensors
from oracle.rewrite import (
    cast,
    one_column_more,
    one_row_fewer,
    one_row_more,
    relabelled,
    with_one_nan,
    write_checkpoint,
)

WIDER_IS_LEGAL = {
    "ct-qwen3next-fp8-dynamic": ("linear_attn.A_log", "linear_attn.dt_bias", "linear_attn.norm.weight"),
    "hf-gptoss-mxfp4": ("model.embed_tokens.weight", "model.norm.weight"),
    "mo-gptoss-fp8": (),
}
"""Single tensors that may be in F32 by their family, or because others of the checkpoint are; the head always may."""

UNREAD = {"quanto-llama128-fp8wo": ("input_scale", "output_scale")}
"""Scales of activations that are not quantized: nobody misses them."""

NAN_BYTE = {"U8": 0xFF, "F8_E4M3": 0x7F}


class Fault(NamedTuple):
    """A way in which a tensor is wrong, and the tensor."""

    kind: str
    content: Stored


def is_scale(name: str) -> bool:
    return "scale" in name.rpartition(".")[2]


def reshaped(stored: Stored) -> Iterator[Fault]:
    if stored.shape:
        yield Fault("a row too many", one_row_more(stored))
        yield Fault("a row too few", one_row_fewer(stored))
    if len(stored.shape) == 2:
        yield Fault("a column too many", one_column_more(stored))


def retyped(name: str, stored: Stored) -> Iterator[Fault]:
    if is_scale(name):
        other = {"BF16": "F32", "F32": "BF16"}.get(stored.dtype)
        if other is not None:
            yield Fault("a scale in another dtype", cast(stored, other))
    elif stored.dtype == "BF16":
        yield Fault("in F16", cast(stored, "F16"))
        yield Fault("in F32", cast(stored, "F32"))
    elif stored.dtype == "F8_E4M3":
        yield Fault("called E5M2", relabelled(stored, "F8_E5M2"))


def poisoned(name: str, stored: Stored) -> Iterator[Fault]:
    if is_scale(name) and stored.dtype in NAN_BYTE:
        data = bytearray(stored.data)
        data[len(data) // 2] = NAN_BYTE[stored.dtype]
        yield Fault("a scale that is no number", stored._replace(data=bytes(data)))
    elif is_scale(name):
        yield Fault("a scale that is no number", with_one_nan(stored))


def faults(checkpoint: str, name: str, stored: Stored) -> Iterator[Fault]:
    yield from reshaped(stored)
    for fault in retyped(name, stored):
        if not (fault.kind == "in F32" and name.endswith((HEAD, *WIDER_IS_LEGAL.get(checkpoint, ())))):
            yield fault
    yield from poisoned(name, stored)


def facts_about(report: fp8load.VerifyReport, subject: str) -> set[tuple[str, ...]]:
    return {(f.code, f.message, f.expected, f.got) for f in report.findings if subject in f.tensors}


def complaint(folder: Path, before: fp8load.VerifyReport, subject: str) -> str | None:
    """What is wrong with how the library takes a damaged checkpoint."""
    report = fp8load.open(folder).verify("scales")
    if not facts_about(report, subject) - facts_about(before, subject):
        return "no finding names it"
    if report.ok:
        return "verify says ok"
    try:
        fp8load.load(folder)
    except fp8load.Fp8LoadError as error:
        return None if subject in str(error) else f"load does not name it: {error}"
    return "it loads"


@pytest.mark.parametrize("checkpoint", [*microscaling.NAMES, *mixtures.NAMES])
def test_whatever_is_wrong_with_a_tensor_is_named(checkpoint: str, tmp_path: Path) -> None:
    stored = tensors(FOLDER / checkpoint)
    before = fp8load.open(write_checkpoint(FOLDER / checkpoint, tmp_path, stored)).verify("scales")
    wrong = []
    for name, content in stored.items():
        if name.endswith(UNREAD.get(checkpoint, ("no such name",))):
            continue
        for fault in faults(checkpoint, name, content):
            folder = write_checkpoint(FOLDER / checkpoint, tmp_path, {**stored, name: fault.content})
            found = complaint(folder, before, name)
            if found is not None:
                wrong.append(f"{name}, {fault.kind}: {found}")

    assert wrong == []
