"""The hook that transformers has for quantized models: modules of other kinds take their places before weights do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from fp8load.errors import Problem, UsageError

METHOD = "fp8load"


class Place(torch.nn.Module):
    """Stands where a layer will, so that transformers allocates and initialises nothing there."""


@register_quantization_config(METHOD)
class LayersConfig(QuantizationConfigMixin):
    """Names of the modules that are replaced. It lives while a model is built, and is never saved."""

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # registered methods are strings, not members
        self.modules = list(modules)


@register_quantizer(METHOD)
class LayersQuantizer(HfQuantizer):
    """Puts a `Place` where a layer will stand; it keeps a model that has such layers from being saved."""

    def __init__(self, quantization_config: LayersConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self._modules = quantization_config.modules

    def _process_model_before_weight_loading(self, model: torch.nn.Module, **_: Any) -> torch.nn.Module:
        for name in self._modules:
            model.set_submodule(name, Place())
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        del model.config.quantization_config  # the config stays that of the model without quantization
        return model

    def is_serializable(self) -> NoReturn:
        """Asked by `save_pretrained` before it writes: the layers' parameters are fused, padded and typed, and no
        reader knows their names. Raises `UsageError` USE034."""
        raise UsageError(Problem(
            code="USE034", message="a model with fp8load's layers is not saved",
            expected="the checkpoint's own files, or plain numbers", got="parameters in the form that kernels take",
            hint="copy the checkpoint; or save dict(fp8load.open(...).plain_tensors()) as an unquantized one",
        ))  # fmt: skip

    @property
    def is_trainable(self) -> bool:
        """Codes and scales take no gradient."""
        return False
