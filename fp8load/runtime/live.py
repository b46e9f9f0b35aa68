"""The parameters of a loaded model as places to write to: each tensor to where the plan's copies put it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch

from fp8load.contract import Arrival
from fp8load.contract_of import OF_THE_WEIGHT
from fp8load.formats.lowered import ModuleInfo
from fp8load.formats.stacked import stored_name
from fp8load.fusion import FusionPlan
from fp8load.index.index import TensorMeta
from fp8load.plan.plan import Copy
from fp8load.runtime.deliver import boxes, by_source, in_rows, piece_of
from fp8load.runtime.exchange import Placed
from fp8load.runtime.experts import ScaledExperts, ScaledLinearStack
from fp8load.runtime.intake import Delivered
from fp8load.runtime.linear import ScaledLinear
from fp8load.runtime.quantize_weight import quantize_weight
from fp8load.scheme import Role

_CALIBRATED = (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE, Role.K_SCALE, Role.V_SCALE, Role.Q_SCALE, Role.PROB_SCALE)
"""What belongs to activations: it outlives the weights that it was measured with."""

_LAYER = re.compile(r"^(.*?\.\d+)(\.|$)")

Owner = ScaledLinear | ScaledLinearStack


class Piece(NamedTuple):
    """A tensor of the plan, or of one expert: what it is, and where this rank keeps it."""

    meta: TensorMeta
    copies: list[Copy]


def layer_of(module: str) -> str:
    """The decoder layer that a module is in; the module itself where it is in none."""
    layer = _LAYER.match(module)
    return layer[1] if layer else module


class Live:
    """Where everything of a model is. Nothing is checked and nothing is written here."""

    def __init__(
        self,
        plan: FusionPlan,
        layers: Mapping[str, ScaledLinear | ScaledExperts],
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        self.plan = plan
        self._layers = layers
        self._tensors = tensors

    @cached_property
    def _pieces(self) -> Mapping[str, list[Piece]]:
        """Stored tensor -> its pieces on this rank."""
        found: dict[str, list[Piece]] = {}
        for source, copies in by_source(self.plan.copies).items():
            stored = stored_name(source, self.plan.lowered.pieces)
            found.setdefault(stored, []).append(Piece(self.plan.tensors[source], copies))
        return found

    @cached_property
    def _modules(self) -> Mapping[str, list[ModuleInfo]]:
        """Stored weight -> the quantized modules that it holds."""
        found: dict[str, list[ModuleInfo]] = {}
        for info in self.plan.lowered.modules.values():
            if info.scheme is not None:
                stored = stored_name(info.tensors[Role.WEIGHT].name, self.plan.lowered.pieces)
                found.setdefault(stored, []).append(info)
        return found

    @cached_property
    def required(self) -> frozenset[str]:
        """The stored tensors of this rank that are weights, or belong to them: what makes a whole update."""
        return frozenset(
            name
            for name, pieces in self._pieces.items()
            if any(self.plan.params[copy.param].role not in _CALIBRATED for piece in pieces for copy in piece.copies)
        )

    def owners(self) -> dict[str, Owner]:
        """Layers, or stacks of experts, under their names in the plan."""
        found: dict[str, Owner] = {}
        for name, layer in self._layers.items():
            if isinstance(layer, ScaledExperts):
                found |= {f"{name}.w13": layer.w13, f"{name}.w2": layer.w2}
            else:
                found[name] = layer
        return found

    def targets(self) -> dict[str, torch.Tensor]:
        """Every parameter by name, where it is now: a model may have been moved."""
        typed = [param for owner in self.owners().values() for param in owner.typed()]
        return {**self._tensors, **{param.full_name: param for param in typed}}

    @cached_property
    def _stored_of(self) -> Mapping[str, frozenset[str]]:
        """Parameter -> the stored tensors that fill it."""
        found: dict[str, set[str]] = {}
        for name, pieces in self._pieces.items():
            for copy in (copy for piece in pieces for copy in piece.copies):
                found.setdefault(copy.param, set()).add(name)
        return {param: frozenset(names) for param, names in found.items()}

    def names_of(self, params: Iterable[str]) -> frozenset[str]:
        """The stored tensors that fill parameters."""
        return frozenset[str]().union(*(self._stored_of[param] for param in params))

    def layers_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The layers, and other tensors, that stored tensors are kept in on this rank."""
        return self.homes_of(copy.param for name in names for piece in self._pieces.get(name, ())
                             for copy in piece.copies)  # fmt: skip

    def homes_of(self, params: Iterable[str]) -> tuple[str, ...]:
        """The layers, and other tensors, that parameters are, or are a part of."""
        found = (self.plan.params[name] for name in params)
        named = (spec.module if spec.module in self.plan.layers else spec.name for spec in found)
        return tuple(dict.fromkeys(
            name.rpartition(".")[0] if name in self.plan.layers and self.plan.layers[name].experts is not None else name
            for name in named
        ))  # fmt: skip

    def made_of(self, delivered: Mapping[str, Delivered]) -> frozenset[str]:
        """The stored tensors that become new: those that come, and the scales of weights that are quantized."""
        wide = (name for name, (_, arrival) in delivered.items() if arrival is Arrival.QUANTIZED)
        return frozenset(delivered).union(*map(self._made, wide))

    def by_layer(self, delivered: Mapping[str, Delivered]) -> Iterator[dict[str, Delivered]]:
        """Tensors by the decoder layer that they are in; those of which this rank keeps nothing by themselves."""
        found: dict[str, dict[str, Delivered]] = {}
        for name, one in delivered.items():
            pieces = self._pieces.get(name)
            module = self.plan.params[pieces[0].copies[0].param].module if pieces else ""
            found.setdefault(layer_of(module), {})[name] = one
        yield from found.values()

    def staged(self, delivered: Mapping[str, Delivered]) -> list[Placed]:
        """Tensors as they will be in memory, beside it: cut, quantized, widened, moved to the device.

        It takes as much memory as the parts of parameters that they fill.
        """
        targets, found = self.targets(), list[Placed]()
        for name, (tensor, arrival) in delivered.items():
            is_wide = arrival is Arrival.QUANTIZED
            for value, piece in self._quantized(name, tensor) if is_wide else self._as_stored(name, tensor, arrival):
                for copy in (copy for copy in piece.copies if copy.src.num_elements):
                    place, part = boxes(value, piece.meta, copy, targets[copy.param].detach())
                    mine = torch.empty(place.shape, dtype=place.dtype, device=place.device)
                    if part.dtype == place.dtype and part.device == place.device:  # as it is, and the sender's own
                        found.append(Placed(copy.param, copy.slot, place, part, mine))
                    else:
                        found.append(Placed(copy.param, copy.slot, place, mine.copy_(part)))
        return found

    def whole(self, staged: Mapping[str, torch.Tensor]) -> list[Placed]:
        """Whole parameters, by name, that were made to be written."""
        targets = self.targets()
        return [Placed(name, "", targets[name].detach(), value) for name, value in staged.items()]

    def _as_stored(self, name: str, tensor: torch.Tensor, arrival: Arrival) -> Iterator[tuple[torch.Tensor, Piece]]:
        stored = self.plan.index.tensors[name]
        for piece in self._pieces.get(name, ()):
            flat = piece_of(tensor, stored, piece.meta, same_bytes=arrival is Arrival.STORED)
            yield in_rows(flat, piece.meta, piece.copies[0]), piece

    def _quantized(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[torch.Tensor, Piece]]:
        """Codes and scales of the modules that a wide weight holds and this rank keeps a part of."""
        stored, held = self.plan.index.tensors[name], {piece.meta.name: piece for piece in self._pieces.get(name, ())}
        for info in self._modules[name]:
            weight, scale, scheme = info.tensors[Role.WEIGHT], info.tensors[Role.WEIGHT_SCALE], info.scheme
            piece = held.get(weight.name)
            if piece is None or scheme is None:
                continue
            w_NK = in_rows(piece_of(tensor, stored, weight, same_bytes=False), weight, piece.copies[0])
            made = quantize_weight(w_NK, scheme.weight, rounding=scheme.rounding, name=name, is_finite=True)
            yield made.codes, piece
            owner = stored_name(scale.name, self.plan.lowered.pieces)
            beside = next(one for one in self._pieces[owner] if one.meta.name == scale.name)
            yield made.scale.reshape(scale.shape), beside

    def _made(self, name: str) -> frozenset[str]:
        """What is made of a weight: the stored tensors of the modules that it holds, beside itself."""
        return frozenset(
            stored_name(info.tensors[role].name, self.plan.lowered.pieces)
            for info in self._modules[name]
            for role in OF_THE_WEIGHT
            if role in info.tensors
        )
