"""Hunyuan 4 as transformers 5.23 saves it: hyper-connections and gates of MLPs under other names.

Its configuration does not say so; the names do.
"""

from __future__ import annotations

from dataclasses import replace

from fp8load.archs.decoder import root
from fp8load.archs.hy_v4 import ARCH as PUBLISHED
from fp8load.archs.hy_v4 import connection, layers
from fp8load.index.index import Index


def detect(index: Index) -> bool:
    """Whether hyper-connections have the names that transformers gives them."""
    return index.config.get("model_type") == "hy_v4" and any("hc_pre" in _holder(name) for name in index.tensors)


def _holder(name: str) -> tuple[str, ...]:
    """The third component from the end: where a published name has the connection, a saved one has "hc_pre"."""
    return tuple(name.split(".")[-3:-2])


ARCH = replace(
    PUBLISHED,
    name="hy_v4_saved",
    model_types=(),
    layer=layers(("hc_pre.hc_attn_layer", "hc_pre.hc_mlp_layer"), "linear_gate"),
    root=(*root(tied=False), *connection("model.hc_pre.hc_head.hc_head_", 1)),
    predictor=None,
    detect=detect,
)
