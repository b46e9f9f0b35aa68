"""Kimi Linear as transformers 5.23 saves it: a dense layer's MLP is under "block_sparse_moe" as well.

Its configuration does not say so; the names do.
"""

from __future__ import annotations

from dataclasses import replace

from fp8load.archs.base import Only
from fp8load.archs.decoder import gated_mlp
from fp8load.archs.deepseek_v3 import is_dense
from fp8load.archs.kimi_linear import ARCH as PUBLISHED
from fp8load.archs.kimi_linear import MOE
from fp8load.index.index import Index

PARTS = tuple(f"{MOE}{name}_proj.weight" for name in ("gate", "up", "down"))


def detect(index: Index) -> bool:
    """Whether an MLP beside the experts has their name."""
    return index.config.get("model_type") == "kimi_linear" and any(name.endswith(PARTS) for name in index.tensors)


ARCH = replace(
    PUBLISHED,
    name="kimi_linear_saved",
    model_types=(),
    layer=tuple(
        Only(where=is_dense, entries=gated_mlp(within=MOE))
        if isinstance(entry, Only) and entry.where is is_dense
        else entry
        for entry in PUBLISHED.layer
    ),
    detect=detect,
)
