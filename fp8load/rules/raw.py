"""Checkpoints of raw casts: FP8 weights whose codes are their numbers, with no scale anywhere."""

from __future__ import annotations

from fp8load.formats.unscaled import is_bare
from fp8load.rules.base import Context
from fp8load.scheme import Role


def are_raw(context: Context) -> bool:
    """Whether no FP8 weight has anything but a bias beside it, nothing is packed, and no scale lost its weight."""
    lowered = context.checkpoint.lowered
    if any(context.problems("F8L202")) or context.checkpoint.format.name != "unquantized":
        return False
    quantized = {name: info for name, info in lowered.modules.items() if info.tensors[Role.WEIGHT].dtype.is_fp8}
    beside = {name.rpartition(".")[0] for name in lowered.loose}
    return all(is_bare(info.tensors) and name not in beside for name, info in quantized.items())
