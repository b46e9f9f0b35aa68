"""The keys of a compressed-tensors configuration, as pydantic models; see `fp8load.formats.compressed_tensors`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Strategy = Literal["tensor", "channel", "block", "group", "tensor_group", "token", "attn_head"]


class Args(BaseModel):
    """QuantizationArgs: how one operand is quantized."""

    model_config = ConfigDict(extra="allow")

    num_bits: int = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Strategy | None = None
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    dynamic: bool | Literal["local"] = False
    actorder: None = None  # a permutation of columns, which FP8 schemes do not have
    scale_dtype: str | None = None
    zp_dtype: str | None = None
    observer: str | None = None  # how it was calibrated, not how it is stored
    observer_kwargs: dict[str, Any] | None = None


class Group(BaseModel):
    """One entry of config_groups."""

    model_config = ConfigDict(extra="allow")

    targets: list[str]
    weights: Args | None = None
    input_activations: Args | None = None
    output_activations: Args | None = None
    format: str | None = None


class TransformArgs(BaseModel):
    """Where one matrix of a transform is applied."""

    model_config = ConfigDict(extra="allow")

    location: str


class TransformScheme(BaseModel):
    """One entry of transform_config: a rotation, and every place where it or its inverse is applied."""

    model_config = ConfigDict(extra="allow")

    apply: list[TransformArgs]


class TransformConfig(BaseModel):
    """Rotations. What was multiplied into weights is in the weights; everything else is done while running."""

    model_config = ConfigDict(extra="forbid")

    config_groups: dict[str, TransformScheme] = {}

    @property
    def online(self) -> str:
        """The first that is done while running, and where; nothing if there is none."""
        places = ((name, args.location) for name, scheme in self.config_groups.items() for args in scheme.apply)
        return next((f"{name} at {place}" for name, place in places if place not in _IN_WEIGHTS), "")


_IN_WEIGHTS = ("weight_input", "weight_output")


class CompressedTensorsConfig(BaseModel):
    """The keys of the configuration; sparsity and compression ratios are known and must be empty here."""

    model_config = ConfigDict(extra="allow")

    quant_method: str
    config_groups: dict[str, Group]
    format: str | None = None
    ignore: list[str] | None = None
    kv_cache_scheme: Args | None = None
    quantization_status: str | None = None
    global_compression_ratio: float | None = None
    sparsity_config: dict[str, Any] | None = None
    transform_config: TransformConfig | None = None
    version: str | None = None
    provider: str | None = None  # auto-round signs here
    moe_sparsity_config: Any = None
