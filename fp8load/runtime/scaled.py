"""What every quantized layer is: typed parameters under one scheme, the backend that runs them, moving and copying."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from fp8load.errors import Problem, UsageError
from fp8load.runtime.backend import Backend, Prepared
from fp8load.runtime.choose import Asked, Choice, names_of
from fp8load.runtime.dtypes import describe
from fp8load.runtime.grouped import GroupedBackend, GroupedPrepared
from fp8load.runtime.seal import Sources, seal
from fp8load.runtime.typed import TypedParameter
from fp8load.scheme import LinearScheme, Role

_TENSORS = (Role.WEIGHT_SCALE, Role.WEIGHT_GLOBAL_SCALE, Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE,
            Role.PRE_QUANT_SCALE, Role.LOW_RANK_A, Role.LOW_RANK_B)  # fmt: skip


class ScaledLayer(torch.nn.Module):
    """Parameters that are filled by a plan or through their `weight_loader`, sealed and prepared before they are used.

    Parameters are named by their roles, and None where absent.

    scheme    how they are stored, and how inputs are quantized
    sources   (parameter, slot) -> tensor on disk, for messages; empty without a plan
    """

    weight: TypedParameter
    weight_scale: TypedParameter | None
    weight_global_scale: TypedParameter | None
    input_scale: TypedParameter | None
    input_global_scale: TypedParameter | None
    pre_quant_scale: TypedParameter | None
    low_rank_a: TypedParameter | None
    low_rank_b: TypedParameter | None
    bias: TypedParameter | None

    _prepared: Prepared | GroupedPrepared | None = None

    def __init__(
        self,
        params: Mapping[Role, TypedParameter],
        *,
        scheme: LinearScheme,
        name: str = "",
        backend: Asked = None,
        sources: Sources | None = None,
    ) -> None:
        super().__init__()
        for role in (Role.WEIGHT, *_TENSORS, Role.BIAS):
            self.register_parameter(role.value, params.get(role))
        self.name = name
        self.scheme = scheme
        self.sources = sources or {}
        self._forced = names_of(backend)
        self._state: tuple[int, ...] = ()

    @property
    @abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """Logical (N, K) of one product on this rank."""

    @abstractmethod
    def dequantize(self) -> torch.Tensor:
        """The weight as float32 [..., N, K], logical size, parts in fused order. Raises `UnfilledSlotError`."""

    @abstractmethod
    def _chosen(self) -> Choice[Backend] | Choice[GroupedBackend]:
        """The backend for the device that the layer is on, chosen once. Raises `BackendError`, `UsageError`."""

    @abstractmethod
    def _prepare(self) -> None:
        """Have the backend prepare what it computes with, in the place of what it prepared before."""

    @abstractmethod
    def _forgotten(self) -> dict[str, object]:
        """Attributes that a move or a copy does not keep, as they are without it: what was prepared shares memory."""

    def finalize(self) -> Self:
        """Refuse unfilled or poisoned slots, choose the backend, prepare it. A second call changes nothing.

        After tensors were loaded again only what was derived from them is computed again, in place. Raises
        `UnfilledSlotError` FILL701, `BackendError` BKD801, `UsageError` BKD800.
        """
        state = self._now()
        if self._prepared is None or state != self._state:
            seal(self.typed(), self.sources)
            self._prepare()
            self._state = state
        return self

    def refresh(self, *, is_sealed: bool = False) -> None:
        """Prepare again, in place, what was prepared before; what was not is prepared when it is used.

        `is_sealed`: its parameters were sealed, together with others, since they were written.
        """
        if self._prepared is None:
            return
        if not is_sealed:
            self.finalize()
            return
        state = self._now()
        if state != self._state:
            self._prepare()
            self._state = state

    @property
    def is_stale(self) -> bool:
        """Whether something is prepared, and parameters were written since."""
        return self._prepared is not None and self._state != self._now()

    @property
    def why(self) -> tuple[str, ...]:
        """Why this backend: one line for each that refused, then one for the one that runs."""
        return self._chosen().why

    def extra_repr(self) -> str:
        """Shape and scheme."""
        return f"{list(self.weight.param_layout.shape)}, {self.scheme}"

    def _forget(self) -> None:
        self.__dict__.update(self._forgotten())

    def typed(self) -> list[TypedParameter]:
        """The parameters that the layer has."""
        scales = (self.weight_scale, self.weight_global_scale, self.input_scale, self.input_global_scale)
        transforms = (self.pre_quant_scale, self.low_rank_a, self.low_rank_b)
        return [param for param in (self.weight, *scales, *transforms, self.bias) if param is not None]

    def _now(self) -> tuple[int, ...]:
        """What tells whether anything was written since `finalize`."""
        return tuple(param.num_writes for param in self.typed())

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move, but never convert: `layer.half()` would turn codes and scales into something else, unseen."""
        for param in self.typed():
            made = fn(torch.empty(0, dtype=param.dtype, device=param.device))
            if made.dtype != param.dtype:
                raise UsageError(Problem(
                    code="USE802", message="a typed parameter keeps its dtype", tensor=param.full_name,
                    expected=describe(param.dtype), got=describe(made.dtype),
                    hint="convert the rest of the model, or move it with .to(device) alone",
                ))  # fmt: skip
            if made.is_meta != param.is_meta:
                raise UsageError(Problem(
                    code="USE802", message="a typed parameter cannot move to or from the meta device",
                    tensor=param.full_name, expected=str(param.device), got=str(made.device),
                    hint="it would lose its data and its slots: make the layer where it shall be",
                ))  # fmt: skip
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._forget()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """`load_state_dict`: in place, same dtype and shape, and everything that was loaded counts as written.

        Raises `LoadError` FILL702 for a tensor of another dtype, before anything of the layer is changed: torch would
        cast it. `assign=True` copies too, because a plain tensor does not know its slots.
        """
        loaded = [param for param in self.typed() if prefix + param.param_layout.role in state_dict]
        for param in loaded:
            key = prefix + param.param_layout.role
            fit = param.checked(state_dict[key], param.param_layout.sources)
            if fit is not state_dict[key]:
                state_dict[key] = fit  # the same bytes under the parameter's dtype: torch would convert numbers
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "assign_to_params_buffers": False}, *args)
        for param in loaded:
            fits = state_dict[prefix + param.param_layout.role].shape == param.shape  # else torch says so, and raises
            for slot in param.written if fits else ():
                param.mark_written(slot)

    def __getstate__(self) -> dict[str, object]:
        """What a copy or a pickle keeps: not what was prepared, which shares memory with these parameters."""
        return {**self.__dict__, **self._forgotten()}


def data_of(param: TypedParameter | None) -> torch.Tensor | None:
    """The tensor of a parameter, sharing its memory; None where it is absent."""
    return None if param is None else param.detach()
