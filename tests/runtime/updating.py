"""Checkpoints under fixtures/ as named tensors, another version of each, and what a model holds as bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fp8load.runtime.experts import ScaledExperts
from fp8load.runtime.model import LoadedModel

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, as stored."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def newer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other numbers in the same places: rows moved on by one, and single numbers doubled."""
    return {name: _other(tensor) for name, tensor in tensors.items()}


def _other(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.numel() == 1:
        return (tensor.float() * 2).to(tensor.dtype)
    if tensor.element_size() > 1 and tensor.is_floating_point():
        return tensor.roll(1, 0) * 2
    return tensor.contiguous().view(torch.uint8).roll(1, 0).view(tensor.dtype)


def rewritten(folder: Path, into: Path) -> Path:
    """The newer version of a checkpoint as a folder."""
    shutil.copytree(folder, into)
    for file in into.glob("*.safetensors"):
        save_file(newer(load_file(file)), file, metadata={"format": "pt"})
    return into


def held(model: LoadedModel) -> dict[str, torch.Tensor]:
    """Everything that the model holds, by name, as it is: parameters of layers and other tensors."""
    found = {param.full_name: param.detach() for layer in model.values() for param in layer.parameters()}
    return {**found, **model.tensors}


def frozen(model: LoadedModel) -> dict[str, bytes]:
    """The same as bytes."""
    return {name: bytes_of(tensor) for name, tensor in held(model).items()}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def addresses(model: LoadedModel) -> dict[str, int]:
    """Where everything lies."""
    return {name: tensor.data_ptr() for name, tensor in held(model).items()}


def prepared(model: LoadedModel) -> dict[str, int]:
    """Where the buffers lie that backends derived."""
    found: dict[str, int] = {}
    for name, layer in model.items():
        stacks = (layer.w13, layer.w2) if isinstance(layer, ScaledExperts) else (layer,)
        for at, one in enumerate(stacks):
            _tensors(one._prepared, f"{name}[{at}]", found)
    return found


def _tensors(value: object, at: str, found: dict[str, int]) -> None:
    if isinstance(value, torch.Tensor):
        found[at] = value.data_ptr()
    elif isinstance(value, tuple | list):
        for number, one in enumerate(value):
            _tensors(one, f"{at}[{number}]", found)
    elif type(value).__module__.startswith(("fp8load.runtime", "fp8load_kernels")):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in {*slots, *getattr(value, "__dict__", {})} - {"__weakref__"}:
            _tensors(getattr(value, name), f"{at}.{name}", found)


def outputs(model: LoadedModel) -> dict[str, bytes]:
    """What every layer answers to one input."""
    found = {}
    for name, layer in model.items():
        torch.manual_seed(0)
        if isinstance(layer, ScaledExperts):
            x = torch.randn(3, layer.w13.shape[2])
            ids = torch.tensor([[layer.experts.start, layer.experts.stop - 1]] * 3)
            found[name] = bytes_of(layer(x, torch.full((3, 2), 0.5), ids))
        else:
            found[name] = bytes_of(layer(torch.randn(3, layer.shape[1])))
    return found
