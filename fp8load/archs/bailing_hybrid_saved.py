"""Ling 3.0 as transformers 5.23 saves it: every output projection is "dense".

Its configuration does not say so; the names do.
"""

from __future__ import annotations

from dataclasses import replace

from fp8load.archs.bailing_hybrid import ARCH as PUBLISHED
from fp8load.archs.bailing_hybrid import layers
from fp8load.index.index import Index


def detect(index: Index) -> bool:
    """Whether a layer has both what only Kimi Delta Attention has and a "dense"."""
    if index.config.get("model_type") != "bailing_hybrid":
        return False
    holders: dict[str, set[str]] = {"A_log": set(), "dense": set()}
    for name in index.tensors:
        layer, found, rest = name.partition(".attention.")
        first = rest.partition(".")[0]
        if found and first in holders:
            holders[first].add(layer)
    return bool(holders["A_log"] & holders["dense"])


ARCH = replace(PUBLISHED, name="bailing_hybrid_saved", model_types=(), layer=layers("dense"), detect=detect)
