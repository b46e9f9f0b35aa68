"""Where the layers of a plan stand in transformers' model, and everything else as the tensors that it loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import torch

from fp8load.archs.base import Experts
from fp8load.archs.model import Model
from fp8load.archs.published import Stacked
from fp8load.errors import LoadError, Problem
from fp8load.formats.kv_names import KV_ROLES
from fp8load.fusion import FusionPlan
from fp8load.plan.plan import LayerSpec, Skip
from fp8load.runtime.linear import ScaledLinear
from fp8load.runtime.model import LoadedModel

Named = tuple[str, torch.Tensor]

STACKS = {"w13": "gate_up_proj", "w2": "down_proj"}
"""The two products of experts, and what transformers calls their stacked parameters."""


def without_predictors(plan: FusionPlan, model: Model) -> FusionPlan:
    """The plan without layers for multi-token prediction, which transformers' models do not have."""
    predictor = model.arch.predictor if model.predicted else None
    starts = (*(model.at(layer) for layer in model.mtp),
              *([] if predictor is None else [f"{model.prefix}{predictor.within}."]))  # fmt: skip
    left = {name for name in plan.params if name.startswith(starts)}
    if not left:
        return plan
    reason = "transformers' model has no layers for multi-token prediction"
    skips = dict.fromkeys(copy.source for copy in plan.copies if copy.param in left)
    layout = replace(
        plan.layout,
        layers={name: layer for name, layer in plan.layers.items() if not name.startswith(starts)},
        params={name: spec for name, spec in plan.params.items() if name not in left},
        copies=tuple(copy for copy in plan.copies if copy.param not in left),
        skips=(*plan.skips, *(Skip(source, reason) for source in skips)),
    )
    num_elements = plan.num_elements - sum(prod(plan.params[name].shape) for name in left)
    return replace(plan, layout=layout, num_elements=num_elements)


def places(plan: FusionPlan, skeleton: torch.nn.Module, renames: Mapping[str, str]) -> dict[str, str]:
    """Name of a quantized layer, or of experts -> the module of the model that it replaces.

    Quantized embeddings are left out: the model looks their rows up. Raises `LoadError` FILL712 where the model has no
    such module, or one of another kind or size. Reads nothing.
    """
    found: dict[str, str] = {}
    for layer in plan.layers.values():
        name = layer.name if layer.experts is None else layer.name.rpartition(".")[0]
        place = _renamed(name, renames)
        module = _module(skeleton, place)
        if isinstance(module, torch.nn.Embedding):
            continue
        expected, got = _sizes(layer, plan, module)
        if expected != got:
            raise LoadError(Problem(
                code="FILL712", message="transformers' model has no such place", module=layer.name, expected=expected,
                got=got, hint="load it with fp8load.load, and place it in a model with these names: LoadedModel.into",
            ))  # fmt: skip
        found[name] = place
    return found


def _sizes(layer: LayerSpec, plan: FusionPlan, module: torch.nn.Module | None) -> tuple[str, str]:
    """What the layer needs, and what stands there, in the same words."""
    if layer.experts is not None:
        expected = f"{len(layer.experts)} experts in {' and '.join(STACKS.values())}"
        parameters = {} if module is None else dict(module.named_parameters(recurse=False))
        stacked = parameters.keys() >= set(STACKS.values())
        got = f"{len(parameters['down_proj'])} experts in {' and '.join(STACKS.values())}" if stacked else repr(module)
        return expected, got
    bias = " and a bias" if f"{layer.name}.bias" in plan.params else ""
    expected = f"a linear layer {list(layer.shape)}{bias}"
    if not isinstance(module, torch.nn.Linear):
        return expected, "no module" if module is None else repr(module)
    there = " and a bias" if module.bias is not None else ""
    return expected, f"a linear layer {[module.out_features, module.in_features]}{there}"


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    return ".".join(renames.get(component, component) for component in name.split("."))


def _module(skeleton: torch.nn.Module, name: str) -> torch.nn.Module | None:
    try:
        return skeleton.get_submodule(name)
    except AttributeError:
        return None


def state(loaded: LoadedModel, model: Model, at: Mapping[str, str], renames: Mapping[str, str]) -> Iterator[Named]:
    """Everything but the layers that stand `at` a place, under names that transformers loads; memory is shared.

    A quantized embedding is dequantized, float32. KV scales are left out: transformers' caches are not quantized.
    """
    published = {
        start + entry.target: entry.published or Stacked()
        for start, entry in model.entries()
        if isinstance(entry, Experts)
    }
    for name, tensor in loaded.tensors.items():
        spec = loaded.plan.params[name]
        experts, _, half = spec.module.rpartition(".")
        if spec.role in KV_ROLES:
            continue
        if experts in published and half in STACKS:
            suffix = "_bias" if name.endswith(".bias") else ""
            yield f"{_renamed(experts, renames)}.{STACKS[half]}{suffix}", _stacked(tensor, half, published[experts])
        else:
            yield name, tensor
    for name, layer in loaded.items():
        if isinstance(layer, ScaledLinear) and name not in at:
            yield f"{name}.weight", layer.dequantize()


def _stacked(tensor: torch.Tensor, half: str, published: Stacked) -> torch.Tensor:
    """Unquantized experts [E, N, K], or their biases [E, N], in the layout that the family is published in."""
    if half == "w13" and published.interleaved:
        tensor = torch.stack(tensor.chunk(2, dim=1), dim=2).flatten(1, 2)
    return tensor.mT if published.transposed and tensor.dim() == 3 else tensor
