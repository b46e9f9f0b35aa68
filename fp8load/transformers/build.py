"""From a checkpoint to transformers' model: its skeleton, the plan's layers in it, the rest as transformers loads it.

transformers itself does what is the same for every model: names of plain tensors, the dtype of each, tied heads, rotary
tables, the generation config, eval mode. Only modules that fp8load runs are kept out of its hands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    __version__,
)
from transformers.utils import logging

from fp8load.checkpoint import Checkpoint
from fp8load.errors import LoadError, Problem, UsageError
from fp8load.fusion import Progress
from fp8load.runtime.experts import ScaledExperts
from fp8load.runtime.model import Layer
from fp8load.transformers.families import known
from fp8load.transformers.fit import places, state, without_predictors
from fp8load.transformers.modules import RoutedExperts, in_dtype
from fp8load.transformers.quantizer import LayersConfig

_LEFT_OUT = ("quantization_config", "compression_config", "auto_map")
"""Keys of config.json that are about other readers: how it is quantized, and code beside it that is not run."""


class Wanted(NamedTuple):
    """How the model shall be: where it lies, what it computes in, which backend is forced, which attention runs."""

    device: torch.device
    dtype: torch.dtype
    backend: str | None
    attn_implementation: str | None


def build(
    checkpoint: Checkpoint, wanted: Wanted, *, requantize: str | None, progress: Progress | None
) -> PreTrainedModel:
    """See `fp8load.transformers.from_pretrained`. What does not fit is found before a weight is read."""
    known_as, renames = known(checkpoint)
    plan = without_predictors(checkpoint.plan(fuse=False), known_as)
    config = _config(checkpoint.index.config)
    chosen = {} if wanted.attn_implementation is None else {"attn_implementation": wanted.attn_implementation}
    with torch.device("meta"):
        skeleton: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers' types are partial
            config, dtype=wanted.dtype, **chosen
        )
    at = places(plan, skeleton, renames)
    loaded = plan.load(device=str(wanted.device), backend=wanted.backend, requantize=requantize, progress=progress)
    with _without_bar():
        model, info = type(skeleton).from_pretrained(
            None,
            config=config,
            state_dict=dict(state(loaded, known_as, at, renames)),
            dtype=wanted.dtype,
            quantization_config=LayersConfig(at.values()),
            generation_config=_generation(checkpoint),
            output_loading_info=True,
            **chosen,
        )
    _refuse_gaps(info)
    model.to(wanted.device)
    for name, place in at.items():
        model.set_submodule(place, _adapted(loaded[name], wanted))
    model.eval().requires_grad_(False)
    model.name_or_path = model.config.name_or_path = checkpoint.source.info.id
    _refuse_meta(model)
    return cast(PreTrainedModel, model)


def _config(document: Mapping[str, Any]) -> PretrainedConfig:
    """config.json without what it says of quantization, also in the part of a multimodal one."""
    kept = {key: value for key, value in document.items() if key not in _LEFT_OUT}
    for key, value in kept.items():
        if isinstance(value, Mapping):
            kept[key] = {inner: held for inner, held in value.items() if inner not in _LEFT_OUT}
    if kept["model_type"] not in CONFIG_MAPPING:
        raise UsageError(Problem(
            code="USE031", message="this version of transformers does not have the family",
            expected=f"one that has model_type {kept['model_type']}", got=f"transformers {__version__}",
            hint="pip install --upgrade transformers",
        ))  # fmt: skip
    config: PretrainedConfig = AutoConfig.for_model(**kept)
    return config


def _generation(checkpoint: Checkpoint) -> GenerationConfig:
    """generation_config.json, or what config.json says of it."""
    document = checkpoint.index.configs.get("generation_config.json", checkpoint.index.config)
    return GenerationConfig.from_dict(dict(document))


def _adapted(layer: Layer, wanted: Wanted) -> torch.nn.Module:
    """The layer as the model calls it."""
    if isinstance(layer, ScaledExperts):
        return RoutedExperts(layer)
    if wanted.dtype is not torch.float32 and wanted.backend == "reference":
        layer.register_forward_hook(in_dtype)
    return layer


@contextmanager
def _without_bar() -> Iterator[None]:
    """No progress bar for the few tensors that are handed over: those of the checkpoint are there already."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _refuse_gaps(info: Mapping[str, Any]) -> None:
    """Raise where transformers found a name on one side only: it would go on with random numbers."""
    for kind, names in info.items():
        for name in sorted(map(str, names)):
            raise LoadError(Problem(
                code="FILL712", message="checkpoint and transformers' model do not have the same tensors", tensor=name,
                expected="each tensor on both sides", got=f"{len(names)} {kind}: {name}",
                hint="transformers may have renamed it: try another version of transformers",
            ))  # fmt: skip


def _refuse_meta(model: torch.nn.Module) -> None:
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise LoadError(Problem(
                code="FILL712", message="nothing has filled this tensor", tensor=name, expected="data", got="meta",
                hint="the model has it and the checkpoint does not: try another version of transformers",
            ))  # fmt: skip
