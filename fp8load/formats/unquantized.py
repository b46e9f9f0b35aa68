"""No quantization configuration: every tensor is what it says, and FP8 among them is a fault."""

from __future__ import annotations

from fp8load.formats.base import CheckpointFormat, Unclaimed

UNQUANTIZED = CheckpointFormat(
    name="unquantized",
    title="no quantization configuration",
    place="nowhere",
    claim=lambda _module: Unclaimed(),
    suffixes={},
)
