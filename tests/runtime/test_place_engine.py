"""A loaded model placed in modules as engines have them: on the meta device, tied, with attributes of their own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.errors import LoadError
from fp8load.runtime.linear import ScaledLinear
from integration.tiny_models import quantized_embedding
from oracle.catalog import FOLDER, config_of, reference_logits
from oracle.decoder import relative_error


class Norm(torch.nn.Module):
    """Root mean square."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.empty(size)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.float()


class Attention(torch.nn.Module):
    """Grouped-query attention with rotary positions, q, k and v in one product."""

    def __init__(self, config: dict, norms: bool) -> None:
        super().__init__()
        hidden, self.heads, self.kv = (
            config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        self.dim = config.get("head_dim") or hidden // self.heads
        self.qkv_proj = torch.nn.Linear(hidden, (self.heads + 2 * self.kv) * self.dim, bias=False)
        self.o_proj = torch.nn.Linear(self.heads * self.dim, hidden, bias=False)
        if norms:
            self.q_norm, self.k_norm = (Norm(self.dim, config["rms_norm_eps"]) for _ in range(2))
        base = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        with torch.device("cpu"):
            table = torch.outer(torch.arange(16), base ** (-torch.arange(0, self.dim, 2) / self.dim))
        self.register_buffer("angles", table, persistent=False)

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        cos, sin = (f(self.angles[: x.shape[1], None]) for f in (torch.cos, torch.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.dim))
        q, k, v = qkv.split([self.heads, self.kv, self.kv], dim=2)
        if "q_norm" in self._modules:
            q, k = self.q_norm(q), self.k_norm(k)
        k, v = (t.repeat_interleave(self.heads // self.kv, dim=2).transpose(1, 2) for t in (self.rotated(k), v))
        scores = self.rotated(q).transpose(1, 2) @ k.mT / math.sqrt(self.dim)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        seen = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class Mlp(torch.nn.Module):
    """Gate and up in one product."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Linear(hidden, 2 * size, bias=False)
        self.down_proj = torch.nn.Linear(size, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(torch.nn.functional.silu(gate) * up)


class Layer(torch.nn.Module):
    """One decoder layer."""

    def __init__(self, config: dict, norms: bool) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.self_attn, self.mlp = Attention(config, norms), Mlp(hidden, config["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = Norm(hidden, eps), Norm(hidden, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Engine(torch.nn.Module):
    """A llama as engines have it: fused names; the head tied where the config says so."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        size = (config["vocab_size"], config["hidden_size"])
        norms = config["model_type"] == "qwen3"
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(*size)
        self.model.layers = torch.nn.ModuleList(Layer(config, norms) for _ in range(config["num_hidden_layers"]))
        self.model.norm = Norm(size[1], config["rms_norm_eps"])
        self.lm_head = torch.nn.Linear(size[1], size[0], bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.model.embed_tokens(ids).float()
        for layer in self.model.layers:
            x = layer(x)
        x = self.model.norm(x)
        return self.lm_head(x.to(self.lm_head.weight.dtype) if self.lm_head.weight.dtype.itemsize > 1 else x)


def engine(name: str | Path) -> Engine:
    """On the meta device."""
    with torch.device("meta"):
        return Engine(config_of(FOLDER / name))


@pytest.mark.parametrize(
    "name", ["ct-llama128-fp8-static", "ct-llama128-lmhead-fp8", "hf-qwen3-fp8-pertensor", "mo-qwen3-nvfp4-kv",
             "mo-phi3-nvfp4"],
)  # fmt: skip
def test_an_engines_module_gives_the_reference_logits(name: str) -> None:
    module = engine(name)
    loaded = fp8load.load(FOLDER / name, backend="reference")

    loaded.into(module)

    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    input_ids, expected = reference_logits(FOLDER / name)
    assert relative_error(module(torch.from_numpy(input_ids)).float().numpy(), expected) < 1e-2  # a head in BF16
    head = module.lm_head
    if not isinstance(head, ScaledLinear):
        head.weight = torch.nn.Parameter(head.weight.float(), requires_grad=False)
    assert relative_error(module(torch.from_numpy(input_ids)).numpy(), expected) < 1e-4


def test_an_attribute_where_a_kv_scale_goes_is_refused_before_anything_changes() -> None:
    """vLLM's attention begins with k_scale = 1.0, a number."""
    module = engine("afp8-llama128-static-kv")
    module.model.layers[1].self_attn.k_scale = 1.0

    with pytest.raises(LoadError, match=r"FILL711.*\n.*model\.layers\.1\.self_attn\.k_scale"):
        fp8load.load(FOLDER / "afp8-llama128-static-kv").into(module)

    assert all(param.is_meta for param in module.parameters())
    assert module.model.layers[1].self_attn.k_scale == 1.0


def test_a_parameter_where_a_layer_goes_is_refused_before_anything_changes() -> None:
    module = engine("ct-llama128-fp8-static")
    del module.model.layers[1].mlp.down_proj
    module.model.layers[1].mlp.down_proj = torch.nn.Parameter(torch.empty(1, device="meta"))

    with pytest.raises(LoadError, match=r"FILL711.*\n.*model\.layers\.1\.mlp\.down_proj"):
        fp8load.load(FOLDER / "ct-llama128-fp8-static").into(module)

    with pytest.raises(LoadError, match="FILL711"):
        fp8load.load(FOLDER / "ct-llama128-fp8-static").into(module, strict=False)
    assert all(param.is_meta for param in module.parameters())


def test_a_stored_buffer_that_would_stay_on_the_meta_device_is_refused() -> None:
    module = engine("ct-llama128-fp8-static")
    module.model.register_buffer("correction", torch.empty(2, device="meta"))

    with pytest.raises(LoadError, match=r"FILL711.*\n.*model\.correction"):
        fp8load.load(FOLDER / "ct-llama128-fp8-static").into(module)


def test_a_buffer_that_is_computed_may_be_filled_later() -> None:
    module = engine("ct-llama128-fp8-static")
    module.model.register_buffer("table", torch.empty(2, device="meta"), persistent=False)

    fp8load.load(FOLDER / "ct-llama128-fp8-static").into(module)

    assert module.model.table.is_meta


def test_a_head_that_is_tied_to_a_quantized_embedding_is_its_layer(tmp_path: Path) -> None:
    folder = quantized_embedding("qwen3", tmp_path / "quantized", tied=True)
    loaded = fp8load.load(folder, backend="reference")
    with torch.device("meta"):
        module = Engine(config_of(folder))

    loaded.into(module)

    assert module.lm_head is loaded["model.embed_tokens"]
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
