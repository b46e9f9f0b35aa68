"""A mini-engine: one decoder block of fp8load's layers, filled by `weight_loader` calls alone. No plan, no file format.

    python docs/engine.py

What an engine writes itself is the table from names on disk to fused layers; slots, ranks, dtypes and scales are the
parameters' business, and `finalize()` refuses what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from fp8load.dtypes import DType
from fp8load.runtime.layers import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, QuantSpec

HIDDEN, HEAD, HEADS, KV_HEADS, INTERMEDIATE = 256, 64, 4, 2, 512
SCHEME = LinearScheme(  # DeepSeek's: a float32 scale for each 64 x 64 block, inputs quantized in groups of 64
    weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(64, 64), scale_dtype=DType.F32),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(64)),
)
ROWS = {"q_proj": HEADS * HEAD, "k_proj": KV_HEADS * HEAD, "v_proj": KV_HEADS * HEAD, "o_proj": HIDDEN,
        "gate_up_proj": 2 * INTERMEDIATE, "down_proj": HIDDEN}  # fmt: skip
STACKED = {"q_proj": ("qkv_proj", "q"), "k_proj": ("qkv_proj", "k"), "v_proj": ("qkv_proj", "v"),
           "gate_up_proj": ("gate_up_proj", ("gate", "up"))}  # fmt: skip
SUFFIXES = {"weight": "weight", "weight_scale_inv": "weight_scale"}


def checkpoint(seed: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """What a safetensors reader yields; gate and up are one tensor on disk, as Phi-3 has them."""
    rng = torch.Generator().manual_seed(seed)
    for module, num_rows in ROWS.items():
        num_cols = INTERMEDIATE if module == "down_proj" else HIDDEN
        yield f"{module}.weight", torch.randn(num_rows, num_cols, generator=rng).to(torch.float8_e4m3fn)
        yield f"{module}.weight_scale_inv", torch.rand(num_rows // 64, num_cols // 64, generator=rng) / 16


class Block(torch.nn.Module):
    """One rank of a decoder block without norms: x [tokens, HIDDEN] -> this rank's part of the sum."""

    def __init__(self, tp_rank: int, tp_size: int, backend: str | None = None) -> None:
        super().__init__()
        shared = {"scheme": SCHEME, "tp_rank": tp_rank, "tp_size": tp_size, "backend": backend}
        self.qkv_proj = QKVParallelLinear(HIDDEN, HEAD, HEADS, KV_HEADS, name="qkv_proj", **shared)
        self.o_proj = RowParallelLinear(HEADS * HEAD, HIDDEN, name="o_proj", **shared)
        self.gate_up_proj = MergedColumnParallelLinear(
            HIDDEN, [INTERMEDIATE, INTERMEDIATE], slots=["gate", "up"], name="gate_up_proj", **shared
        )
        self.down_proj = RowParallelLinear(INTERMEDIATE, HIDDEN, name="down_proj", **shared)

    def load(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> Block:
        """Send each tensor to the slots that it fills; then refuse to serve with a slot missing."""
        params = dict(self.named_parameters())
        for name, tensor in tensors:
            module, suffix = name.split(".")
            target, shard_id = STACKED.get(module, (module, None))
            param = params[f"{target}.{SUFFIXES[suffix]}"]
            param.weight_loader(param, tensor, shard_id)
        for layer in self.children():
            layer.finalize()
        return self

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Causal attention over this rank's heads; o_proj's partial sum."""
        parts = self.qkv_proj(x).split(self.qkv_proj.output_sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, HEAD)).transpose(0, 1) for part in parts)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(heads.transpose(0, 1).flatten(1))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        """down_proj's partial sum."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def run(x: torch.Tensor, tp_size: int, backend: str | None = None) -> torch.Tensor:
    """All ranks, one after the other; an engine has an all-reduce where this adds up."""
    ranks = [Block(rank, tp_size, backend).load(checkpoint()) for rank in range(tp_size)]
    x = x + torch.stack([rank.attention(x) for rank in ranks]).sum(0)
    return x + torch.stack([rank.mlp(x) for rank in ranks]).sum(0)


if __name__ == "__main__":
    tokens = torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(1))
    one, two, exact = run(tokens, 1), run(tokens, 2), run(tokens, 1, "reference")
    print(Block(0, 2).load(checkpoint()))
    print(f"tp 2 against tp 1       {(two - one).norm() / one.norm():.1e}")
    print(f"quantized inputs        {(one - exact).norm() / exact.norm():.1e} from weight-only float32")
