"""What a configuration says of modules that are stored unquantized; rules on configuration against tensors share it."""

from __future__ import annotations

from collections.abc import Iterator
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
    unquantized: dict[str, list[TensorMeta]] = {}
    for by, weight in _claims(checkpoint, are_wide=True):
        unquantized.setdefault(by, []).append(weight)
    # Few weights are claimed in vain, and one quantized weight of an entry is enough: most are never asked about.
    for by, _ in _claims(checkpoint, are_wide=False):
        if not unquantized:
            break
        unquantized.pop(by, None)
    return unquantized


def _claims(checkpoint: Checkpoint, *, are_wide: bool) -> Iterator[tuple[str, TensorMeta]]:
    """Linear layers that the configuration claims, unquantized ones or the others: the entry, and the weight."""
    for name, info in checkpoint.lowered.modules.items():
        weight = info.tensors[Role.WEIGHT]
        if weight.dtype.is_wide_float is are_wide and len(weight.shape) == 2:
            claim = None if is_embedding(name) or is_router(name) else checkpoint.format.claim(name)
            if isinstance(claim, Claimed):
                yield claim.by, weight
