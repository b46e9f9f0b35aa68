"""Skeletons of sound checkpoints that rows of several sections begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fp8load.index.layout import encode_header
from fp8load.index.skeleton import parse_skeleton
from fp8load.rules.samples import LLAMA_CONFIG, LLAMA_REST

FORMS = Path(__file__).resolve().parents[2] / "docs" / "formats" / "forms"
"""Skeletons of every form that is loaded."""

INDEX = "model.safetensors.index.json"

DENSE = (
    LLAMA_CONFIG
    + """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight  BF16  [256, 256]
model.layers.0.mlp.{gate,up}_proj.weight        BF16  [512, 256]
model.layers.0.mlp.down_proj.weight             BF16  [256, 512]
"""
    + LLAMA_REST
)
"""A whole model that is not quantized."""

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
"""The block form."""


def config(**keys: Any) -> str:
    """A line of config.json."""
    return f"config {json.dumps(keys)}\n"


def quantized(**keys: Any) -> str:
    """A line of config.json with a `quantization_config`."""
    return config(quantization_config=keys)


def ct(weights: dict[str, Any], inputs: dict[str, Any] | None = None, **keys: Any) -> str:
    """compressed-tensors: one group of all linear layers; `inputs` None leaves activations alone."""
    group = {"targets": ["Linear"], "weights": weights} | ({"input_activations": inputs} if inputs else {})
    return quantized(**{"quant_method": "compressed-tensors", "quantization_status": "compressed",
                        "config_groups": {"group_0": group}, "ignore": ["lm_head"]} | keys)  # fmt: skip


CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel"}
TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

CT_CHANNEL = (
    ct(CHANNEL, TOKEN)
    + """\
model.layers.{0..1}.self_attn.{q,k,v,o}_proj.weight        F8_E4M3  [256, 256]
model.layers.{0..1}.self_attn.{q,k,v,o}_proj.weight_scale  BF16     [256, 1]
lm_head.weight                                             BF16     [1024, 256]
"""
)
"""compressed-tensors, one scale a row."""

CT_NVFP4 = (
    ct(NVFP4, format="nvfp4-pack-quantized")
    + """\
model.layers.{0..3}.mlp.{gate,up}_proj.weight_packed        U8       [256, 128]
model.layers.{0..3}.mlp.{gate,up}_proj.weight_scale         F8_E4M3  [256, 16]
model.layers.{0..3}.mlp.{gate,up}_proj.weight_global_scale  F32      [1]
lm_head.weight                                              BF16     [1024, 256]
"""
)
"""compressed-tensors NVFP4 of weights alone."""


def modelopt(algorithm: str, *ignore: str, **keys: Any) -> str:
    """ModelOpt as config.json has it."""
    return quantized(quant_method="modelopt", quant_algo=algorithm, ignore=list(ignore),
                     producer={"name": "modelopt", "version": "0.47.0"}, **keys)  # fmt: skip


def index_of(**files: str) -> dict[str, bytes]:
    """An index: file, without its ending and with "_" for "-", to its tensors' names, apart by spaces."""
    weight_map = {
        name: f"{file.replace('_', '-')}.safetensors" for file, names in files.items() for name in names.split()
    }
    return {INDEX: json.dumps({"weight_map": weight_map}).encode()}


def file_of(skeleton: str, metadata: dict[str, str]) -> dict[str, bytes]:
    """The one file of a skeleton, full of zeros, with these free metadata."""
    index = parse_skeleton(skeleton)
    ((name, file),) = index.files.items()
    return {name: encode_header(list(index.tensors.values()), file.header_nbytes, metadata) + bytes(index.nbytes)}


def headed(skeleton: str, metadata: str) -> dict[str, bytes]:
    """The same with free metadata as this text has them, which may be no map."""
    ((name, stored),) = file_of(skeleton, {}).items()
    end = 8 + int.from_bytes(stored[:8], "little")
    text = f'{{"__metadata__":{metadata},'.encode() + stored[9:end]
    return {name: len(text).to_bytes(8, "little") + text + stored[end:]}


def indexed(skeleton: str) -> dict[str, bytes]:
    """The index of a skeleton's tensors, whatever else lies beside them."""
    weight_map = {name: meta.file for name, meta in parse_skeleton(skeleton).tensors.items()}
    return {INDEX: json.dumps({"weight_map": weight_map}).encode()}


def placed(skeleton: str, file: str) -> str:
    """The skeleton with each tensor in this file."""
    lines = [line if line.startswith("config ") else f"{line}  @ {file}" for line in skeleton.splitlines()]
    return "\n".join(lines) + "\n"
