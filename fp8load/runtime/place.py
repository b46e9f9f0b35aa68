"""Placing a loaded model in a torch module by name: layers replace what stands there, tensors become its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from fp8load.errors import LoadError, Problem
from fp8load.runtime.experts import ScaledExperts
from fp8load.runtime.linear import ScaledLinear

KV_NAMES = ("k_scale", "v_scale", "q_scale")


def place(
    layers: Mapping[str, ScaledLinear | ScaledExperts],
    tensors: Mapping[str, torch.Tensor],
    module: torch.nn.Module,
    *,
    strict: bool,
) -> None:
    """See `LoadedModel.into`. Nothing is placed when something would be missing."""
    places = {name: _parent(module, name) for name in (*layers, *tensors)}
    if strict:
        _refuse_gaps(layers, tensors, module, places)
    for name, layer in layers.items():
        parent = places[name]
        if parent is not None:
            parent.register_module(name.rpartition(".")[2], layer)
    shared = _shared(module)
    for name, tensor in tensors.items():
        parent = places[name]
        if parent is not None:
            _set(parent, name.rpartition(".")[2], tensor, module, shared.get(name, ()))


def _parent(module: torch.nn.Module, name: str) -> torch.nn.Module | None:
    """The module that holds `name`, if it has such a child, parameter or buffer; KV scales need only the parent."""
    above, _, leaf = name.rpartition(".")
    try:
        parent = module.get_submodule(above)
    except AttributeError:
        return None
    known = {*parent._modules, *parent._parameters, *parent._buffers, *KV_NAMES}
    return parent if leaf in known else None


def refuse_moved(tensors: Mapping[str, torch.Tensor], module: torch.nn.Module) -> None:
    """Refuse a module whose parameters no longer share the memory of the tensors that were placed in it.

    `module.to(device)` gives each parameter memory of its own: what is written into the model would not be seen. Raises
    `LoadError` FILL712.
    """
    for name, tensor in tensors.items():
        parent, leaf = _parent(module, name), name.rpartition(".")[2]
        now = None if parent is None else parent._parameters.get(leaf, parent._buffers.get(leaf))
        if now is not None and now.data_ptr() != tensor.data_ptr():
            raise LoadError(Problem(
                code="FILL712", message="the module that the model was placed in has memory of its own by now",
                tensor=name, expected=f"the model's, on {tensor.device}", got=f"another place, on {now.device}",
                hint="load the model on the device where it shall run, and place it there",
            ))  # fmt: skip


def _shared(module: torch.nn.Module) -> dict[str, list[str]]:
    """Parameter name -> the other names of the same parameter (a tied head)."""
    names: dict[int, list[str]] = {}
    for name, param in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    return {name: [other for other in group if other != name] for group in names.values() for name in group}


def _set(
    parent: torch.nn.Module, leaf: str, tensor: torch.Tensor, module: torch.nn.Module, shared: Iterable[str]
) -> None:
    """The tensor itself, not a copy: as a parameter where one stands (under all its names), else as a buffer."""
    if leaf not in parent._parameters:
        parent.register_buffer(leaf, tensor)
        return
    param = torch.nn.Parameter(tensor, requires_grad=False)
    parent.register_parameter(leaf, param)
    for name in shared:
        above, _, other = name.rpartition(".")
        module.get_submodule(above).register_parameter(other, param)


def _refuse_gaps(
    layers: Mapping[str, ScaledLinear | ScaledExperts],
    tensors: Mapping[str, torch.Tensor],
    module: torch.nn.Module,
    places: Mapping[str, torch.nn.Module | None],
) -> None:
    homeless = [name for name, parent in places.items() if parent is None]
    empty = list(_untouched(layers, tensors, module))
    if not homeless and not empty:
        return
    first = (homeless or empty)[0]
    raise LoadError(Problem(
        code="FILL711", tensor=first,
        message="the module has no such place" if homeless else "the checkpoint has nothing for this parameter",
        expected="the names of the loaded model, fused where it is: one place for each",
        got=f"{len(homeless)} names without a place, {len(empty)} parameters without a tensor",
        hint="build the module with fused names (qkv_proj, gate_up_proj), or pass strict=False",
    ))  # fmt: skip


def _untouched(
    layers: Mapping[str, ScaledLinear | ScaledExperts], tensors: Mapping[str, torch.Tensor], module: torch.nn.Module
) -> Iterator[str]:
    """Parameters that neither a layer nor a tensor replaces. One that is shared (a tied head) counts once."""
    placed = {id(param) for name, param in module.named_parameters(remove_duplicate=False) if name in tensors}
    for name, param in module.named_parameters():
        covered = name in tensors or id(param) in placed or any(name.startswith(f"{layer}.") for layer in layers)
        if not covered:
            yield name
