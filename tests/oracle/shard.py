"""Fusing and tensor-parallel sharding in numpy, by heads and columns, from the models' definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oracle.catalog import BLOCK, SCALES, block_size, config_of
from oracle.dequantize import tensors

QKV = "self_attn.qkv_proj"
GATE_UP = "mlp.gate_up_proj"
MEMBERS = {
    QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.down_proj": ("mlp.down_proj",),
}
COLUMN_SPLIT = ("self_attn.o_proj", "mlp.down_proj")


class Sizes(NamedTuple):
    """The numbers of config.json that decide how a layer is cut."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int


def sizes(config: Mapping[str, Any]) -> Sizes:
    """Numbers from config.json; head_dim is hidden / heads where it is absent."""
    num_heads = config["num_attention_heads"]
    return Sizes(
        config["num_hidden_layers"],
        num_heads,
        config["num_key_value_heads"],
        config.get("head_dim") or config["hidden_size"] // num_heads,
        config["intermediate_size"],
    )


def rows_on_disk(module: str, size: Sizes) -> tuple[int, ...]:
    """Rows of each member of a fused module."""
    if module == QKV:
        kv_rows = size.num_kv_heads * size.head_dim
        return (size.num_heads * size.head_dim, kv_rows, kv_rows)
    return (size.intermediate, size.intermediate)


def spans(module: str, config: Mapping[str, Any], tp_rank: int, tp_size: int) -> tuple[slice, ...]:
    """What a rank keeps: rows of each member, or the columns of a module that is split by columns."""
    size = sizes(config)

    def share(total: int) -> slice:
        return slice(total // tp_size * tp_rank, total // tp_size * (tp_rank + 1))

    if module == QKV:
        q = share(size.num_heads * size.head_dim)
        if tp_size <= size.num_kv_heads:
            kv = share(size.num_kv_heads * size.head_dim)
        else:
            head = tp_rank * size.num_kv_heads // tp_size
            kv = slice(head * size.head_dim, (head + 1) * size.head_dim)
        return (q, kv, kv)
    if module == GATE_UP:
        return (share(size.intermediate),) * 2
    return (share(size.num_heads * size.head_dim if module == "self_attn.o_proj" else size.intermediate),)


def members_on_disk(weights: Mapping[str, np.ndarray], prefix: str, module: str, size: Sizes) -> list[np.ndarray]:
    """The members of a fused module, cut apart where the checkpoint stores them fused. `module` ends in a role."""
    target, _, role = module.rpartition(".")
    whole = weights.get(f"{prefix}.{module}")
    if target not in (QKV, GATE_UP) or whole is None:
        return [weights[f"{prefix}.{member}.{role}"] for member in MEMBERS[target]]
    rows = rows_on_disk(target, size)
    assert whole.shape[0] == sum(rows)
    return np.split(whole, np.cumsum(rows)[:-1])


def sharded(
    weights: Mapping[str, np.ndarray], config: Mapping[str, Any], tp_rank: int, tp_size: int
) -> dict[str, np.ndarray]:
    """Every tensor of one rank under its fused name: weights, biases, norms, embedding and head."""
    size = sizes(config)
    result = {}
    for layer in range(size.num_layers):
        prefix = f"model.layers.{layer}"
        for module in MEMBERS:
            cuts = spans(module, config, tp_rank, tp_size)
            parts = members_on_disk(weights, prefix, f"{module}.weight", size)
            if module in COLUMN_SPLIT:
                pieces = [parts[0][:, cuts[0]]]
            else:
                pieces = [part[cut] for part, cut in zip(parts, cuts, strict=True)]
            result[f"{prefix}.{module}.weight"] = np.concatenate(pieces)
            if f"{prefix}.{MEMBERS[module][0]}.bias" in weights:
                assert module not in COLUMN_SPLIT
                parts = members_on_disk(weights, prefix, f"{module}.bias", size)
                biases = [part[cut] for part, cut in zip(parts, cuts, strict=True)]
                result[f"{prefix}.{module}.bias"] = np.concatenate(biases)
    for name, value in weights.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            share = -(-value.shape[0] // tp_size)
            result[name] = value[share * tp_rank : share * (tp_rank + 1)]
        elif name.endswith("norm.weight"):
            result[name] = value
    return result


def quantized_modules(folder: Path) -> set[str]:
    """Fused names of the modules whose weights are FP8 on disk."""
    fused = {member: module for module, members in MEMBERS.items() for member in members}
    modules = set()
    for name, stored in tensors(folder).items():
        if stored.dtype != "F8_E4M3":
            continue
        module = name.removesuffix(".weight")
        head, _, tail = module.partition(".layers.")
        layer, _, member = tail.partition(".")
        modules.add(f"{head}.layers.{layer}.{fused.get(member, member)}" if tail else module)
    return modules


def misfits(folder: Path, tp_size: int) -> set[str]:
    """Modules of layer 0 that cannot be cut into `tp_size` pieces; empty where the size is legal."""
    return set(_misfits(folder, tp_size))


def legal_sizes(folder: Path) -> list[int]:
    """Tensor-parallel sizes up to 8 that cut every module of the checkpoint."""
    return [tp_size for tp_size in range(1, 9) if not misfits(folder, tp_size)]


def _misfits(folder: Path, tp_size: int) -> Iterator[str]:
    config = config_of(folder)
    size = sizes(config)
    prefix = "model.layers.0"
    if size.num_heads % tp_size:
        yield from (f"{prefix}.{QKV}", f"{prefix}.self_attn.o_proj")
    elif size.num_kv_heads % tp_size and tp_size % size.num_kv_heads:
        yield f"{prefix}.{QKV}"
    if size.intermediate % tp_size:
        yield from (f"{prefix}.{GATE_UP}", f"{prefix}.mlp.down_proj")
    if SCALES[folder.name].shape != BLOCK:
        return
    quantized = quantized_modules(folder)
    for module in MEMBERS:
        if f"{prefix}.{module}" not in quantized:
            continue
        axis = 1 if module in COLUMN_SPLIT else 0
        block = block_size(folder)[axis]
        ends = rows_on_disk(module, size) if axis == 0 else (spans(module, config, 0, 1)[0].stop,)
        for rank in range(tp_size):
            for cut, end in zip(spans(module, config, rank, tp_size), ends, strict=True):
                if cut.start % block or (cut.stop % block and cut.stop != end):
                    yield f"{prefix}.{module}"
