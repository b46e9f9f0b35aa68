"""Skeletons of llama-like models of any size, as text: what plan laws are tried on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from fp8load.checkpoint import Checkpoint
from fp8load.source.skeleton import SkeletonSource


@dataclass(frozen=True)
class Llama:
    """Sizes of a model, and how it is quantized: "tensor", "channel" or (rows, cols)."""

    hidden: int = 64
    intermediate: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 50
    layers: int = 2
    scale: str | tuple[int, int] = "channel"
    static: bool = False
    fused: bool = False
    bias: bool = False
    quantized: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """config.json."""
        document = {
            "model_type": "phi3" if self.fused else "llama", "hidden_size": self.hidden, "vocab_size": self.vocab,
            "intermediate_size": self.intermediate, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim, "num_hidden_layers": self.layers,
            "attention_bias": self.bias, "tie_word_embeddings": False, **self.extra,
        }  # fmt: skip
        if self.quantized:
            document["quantization_config"] = self.quantization()
        return document

    def quantization(self) -> dict[str, Any]:
        """compressed-tensors for one scale a tensor or channel, the fp8 dialect for blocks."""
        if isinstance(self.scale, tuple):
            return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(self.scale)}
        inputs = {"num_bits": 8, "type": "float", "strategy": "tensor" if self.static else "token",
                  "dynamic": not self.static}  # fmt: skip
        group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": self.scale},
                 "input_activations": inputs}  # fmt: skip
        return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}

    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear modules of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.fused:
            first = {
                "self_attn.qkv_proj": (q + 2 * kv, self.hidden),
                "mlp.gate_up_proj": (2 * self.intermediate, self.hidden),
            }
        else:
            first = {"self_attn.q_proj": (q, self.hidden), "self_attn.k_proj": (kv, self.hidden),
                     "self_attn.v_proj": (kv, self.hidden), "mlp.gate_proj": (self.intermediate, self.hidden),
                     "mlp.up_proj": (self.intermediate, self.hidden)}  # fmt: skip
        return {**first, "self_attn.o_proj": (self.hidden, q), "mlp.down_proj": (self.hidden, self.intermediate)}

    def skeleton(self) -> str:
        """The checkpoint's headers."""
        layer = f"model.layers.{{0..{self.layers - 1}}}"
        lines = [f"config {json.dumps(self.config())}"]
        for name, (rows, cols) in self.linears().items():
            dtype = "F8_E4M3" if self.quantized else "BF16"
            lines.append(f"{layer}.{name}.weight {dtype} [{rows}, {cols}]")
            if self.quantized:
                lines += self._scales(f"{layer}.{name}", rows, cols)
            if self.bias and "self_attn" in name:
                lines.append(f"{layer}.{name}.bias BF16 [{rows}]")
        lines += [f"{layer}.{{input,post_attention}}_layernorm.weight BF16 [{self.hidden}]",
                  f"{{model.embed_tokens,lm_head}}.weight BF16 [{self.vocab}, {self.hidden}]",
                  f"model.norm.weight BF16 [{self.hidden}]"]  # fmt: skip
        return "\n".join(lines)

    def _scales(self, module: str, rows: int, cols: int) -> list[str]:
        if isinstance(self.scale, tuple):
            bn, bk = self.scale
            return [f"{module}.weight_scale_inv F32 [{-(-rows // bn)}, {-(-cols // bk)}]"]
        shape = "[1]" if self.scale == "tensor" else f"[{rows}, 1]"
        return [f"{module}.weight_scale BF16 {shape}"] + ([f"{module}.input_scale BF16 [1]"] if self.static else [])

    def open(self) -> Checkpoint:
        """The checkpoint, without files."""
        return open_skeleton(self.skeleton())

    def but(self, **changes: Any) -> Llama:
        """The same with other sizes."""
        return replace(self, **changes)


def open_skeleton(text: str) -> Checkpoint:
    """A checkpoint from a skeleton's text."""
    source = SkeletonSource(text, id="test.skel")
    return Checkpoint(source, source.index)
