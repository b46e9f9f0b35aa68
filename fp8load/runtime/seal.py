"""The two locks on a loaded parameter: every slot was written, and no scale is a NaN, an infinity or negative."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from fp8load.errors import Problem, UnfilledSlotError
from fp8load.plan.layout import SlotSource
from fp8load.runtime.dequantize import decode_scale
from fp8load.runtime.slots import is_scale
from fp8load.runtime.typed import TypedParameter
from fp8load.runtime.verdicts import answers
from fp8load.scheme import Role

Sources = Mapping[tuple[str, str], str]
"""(parameter, slot) -> the tensor on disk that should fill it, where a plan knows it."""


def seal(params: Iterable[TypedParameter], sources: Sources | None = None) -> None:
    """Refuse parameters with a slot that was never written or a scale that is not a finite number >= 0.

    Raises `UnfilledSlotError` FILL701 for the first, naming parameter, slot and what should have filled it, and saying
    how many more there are.
    """
    sealed = list(params)
    problems = [
        problem
        for param, is_sound in zip(sealed, _are_sound(sealed), strict=True)
        for problem in _problems(param, sources or {}, is_sound=is_sound)
    ]
    if not problems:
        return
    first = problems[0]
    if len(problems) > 1:
        others = ", ".join(problem.tensor for problem in problems[1:4]) + (", ..." if len(problems) > 4 else "")
        first = replace(first, hint=f"{len(problems) - 1} more slots are not filled: {others}")
    raise UnfilledSlotError(first)


def _problems(param: TypedParameter, sources: Sources, *, is_sound: bool) -> Iterable[Problem]:
    for slot in param.param_layout.sources:
        if not param.written[slot.slot]:
            yield _unwritten(param, slot, sources)
    if not is_sound:
        for slot in param.param_layout.sources:
            if param.written[slot.slot]:
                yield from _poisoned(param, slot, sources)


_POSITIVE = (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE, Role.PRE_QUANT_SCALE)
"""Scales of the input, of which zero is no more use than a NaN. A zero weight scale makes a zero block."""


def _sound(values: torch.Tensor, role: Role) -> torch.Tensor:
    """Which values may be scales: every comparison is False for a NaN."""
    return ((values > 0) if role in _POSITIVE else (values >= 0)) & (values < torch.inf)


def _are_sound(params: Sequence[TypedParameter]) -> list[bool]:
    """Whether each parameter holds no bad scale, from its extremes. A device is waited for once, not for each."""
    asked: dict[int, torch.Tensor] = {}
    for at, param in enumerate(params):
        if is_scale(param.param_layout.role) and param.device.type != "meta" and param.numel():
            values = decode_scale(param.detach(), param.param_layout.dtype)
            asked[at] = _sound(torch.stack(values.aminmax()), param.param_layout.role).all()
    answered = dict(zip(asked, answers(list(asked.values())), strict=True))
    return [answered.get(at, True) for at in range(len(params))]


def _unwritten(param: TypedParameter, slot: SlotSource, sources: Sources) -> Problem:
    tensor, is_torn = sources.get((param.full_name, slot.slot), ""), slot.slot in param.torn
    message = (
        f"an update broke off in slot {slot.slot}: reload all of the layer"
        if is_torn
        else f"slot {slot.slot} was never written"
    )
    return Problem(
        code="FILL701", message=message, tensor=f"{param.full_name}[{slot.slot}]",
        expected=_expected(param, slot, tensor), got="neither old values nor new ones" if is_torn else "no tensor",
    )  # fmt: skip


def _poisoned(param: TypedParameter, slot: SlotSource, sources: Sources) -> Iterable[Problem]:
    values = decode_scale(param.slot_view(slot), param.param_layout.dtype)
    bad = (~_sound(values, param.param_layout.role)).nonzero()
    if not len(bad):
        return
    index = bad[0].tolist()
    bound = "> 0" if param.param_layout.role in _POSITIVE else ">= 0"
    tensor = sources.get((param.full_name, slot.slot), "")
    yield Problem(
        code="FILL701", tensor=f"{param.full_name}[{slot.slot}]", expected=_expected(param, slot, tensor),
        message=f"{len(bad)} of {values.numel()} scales of slot {slot.slot} are not finite numbers {bound}",
        got=f"{values[tuple(index)].item()} at {index} of the slot",
    )  # fmt: skip


def _expected(param: TypedParameter, slot: SlotSource, tensor: str) -> str:
    what = f"{param.param_layout.dtype} {list(slot.shape)}"
    return f"{tensor} {what}" if tensor else f'{what} through weight_loader(param, tensor, "{slot.slot}")'
