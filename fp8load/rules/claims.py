"""What a configuration says of modules that are stored unquantized; rules on configuration against tensors share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fp8load.formats.base import Claimed
from fp8load.formats.match import is_embedding, is_router
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint


def empty_claims(checkpoint: Checkpoint) -> dict[str, list[TensorMeta]]:
    """Entries of the configuration that claim linear layers of which none is quantized, with those layers' weights.

    A group whose modules are quantized at least in part is not among them, nor is anything without a configuration.
    """
    fmt = checkpoint.format
    unquantized: dict[str, list[TensorMeta]] = {}
    alive: set[str] = set()
    for name, info in checkpoint.lowered.modules.items():
        weight = info.tensors[Role.WEIGHT]
        if len(weight.shape) != 2 or is_embedding(name) or is_router(name):
            continue
        claim = fmt.claim(name)
        if not isinstance(claim, Claimed):
            continue
        if weight.dtype.is_wide_float:
            unquantized.setdefault(claim.by, []).append(weight)
        else:
            alive.add(claim.by)
    return {by: weights for by, weights in unquantized.items() if by not in alive}
