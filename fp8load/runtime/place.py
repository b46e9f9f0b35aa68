"""Placing a loaded model in a torch module by name: layers replace what stands there, tensors become its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from fp8load.errors import LoadError, Problem
from fp8load.runtime.experts import ScaledExperts
from fp8load.runtime.linear import ScaledLinear

Layers = Mapping[str, ScaledLinear | ScaledExperts]
"""By fused names."""

KV_NAMES = ("k_scale", "v_scale", "q_scale")


def place(
    layers: Layers,
    tensors: Mapping[str, torch.Tensor],
    module: torch.nn.Module,
    *,
    strict: bool,
) -> None:
    """See `LoadedModel.into`. Nothing is placed when something would be missing."""
    placed_layers = {**layers, **dict(_tied(layers, module))}
    places = {name: _parent(module, name) for name in (*placed_layers, *tensors)}
    _refuse_taken(placed_layers, places)
    if strict:
        _refuse_gaps(placed_layers, tensors, module, places)
    shared = _shared(module)
    for name, layer in placed_layers.items():
        parent = places[name]
        if parent is not None:
            parent.register_module(name.rpartition(".")[2], layer)
    for name, tensor in tensors.items():
        parent = places[name]
        if parent is not None:
            _set(parent, name.rpartition(".")[2], tensor, module, shared.get(name, ()))


def _tied(layers: Layers, module: torch.nn.Module) -> Iterator[tuple[str, ScaledLinear | ScaledExperts]]:
    """Modules whose weight is that of a module that a layer replaces: a head that is tied to a quantized embedding."""
    for name, others in _shared(module).items():
        layer = layers.get(name.removesuffix(".weight"))
        if layer is not None and name.endswith(".weight"):
            yield from ((other.removesuffix(".weight"), layer) for other in others if other.endswith(".weight"))


def _refuse_taken(layers: Layers, places: Mapping[str, torch.nn.Module | None]) -> None:
    """Raise where a name stands for something that is neither module nor tensor, or a layer's for a tensor."""
    for name, parent in places.items():
        leaf = name.rpartition(".")[2]
        if parent is None:
            continue
        tensor = leaf in parent._parameters or leaf in parent._buffers
        if leaf in parent.__dict__ or (name in layers and tensor) or (name not in layers and leaf in parent._modules):
            held = "a tensor" if tensor else "a module" if leaf in parent._modules else "an attribute that is neither"
            raise LoadError(Problem(
                code="FILL711", tensor=name, message="something else has the name in the module",
                expected="a module" if name in layers else "a parameter, a buffer, or nothing of this name", got=held,
                hint="rename or delete that attribute before placing the model",
            ))  # fmt: skip


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
    layers: Layers,
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
        message="the module has no such place" if homeless else "the checkpoint has nothing for this",
        expected="the names of the loaded model, fused where it is: one place for each",
        got=f"{len(homeless)} names without a place, {len(empty)} parameters and buffers without a tensor",
        hint="build the module with fused names (qkv_proj, gate_up_proj), or pass strict=False",
    ))  # fmt: skip


def _untouched(layers: Layers, tensors: Mapping[str, torch.Tensor], module: torch.nn.Module) -> Iterator[str]:
    """Parameters that neither a layer nor a tensor replaces, and buffers of the module's state that hold no data.

    A parameter that is shared (a tied head) counts once.
    """
    named = list(module.named_parameters(remove_duplicate=False))
    placed = {id(param) for name, param in named if name in tensors or _within(layers, name)}
    yield from (name for name, param in module.named_parameters() if id(param) not in placed)
    state = module.state_dict(keep_vars=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta and name in state and name not in tensors and not _within(layers, name):
            yield name


def _within(layers: Layers, name: str) -> bool:
    """Whether a name is of something below a module that a layer replaces."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in layers for length in range(1, len(parts)))
