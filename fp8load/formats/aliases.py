"""A scale under a name of another dialect: it is there, and this format's readers look for another name.

Names as published checkpoints have them: `weight_scale_inv` (DeepSeek, transformers), `weight_scale` (AutoFP8,
ModelOpt, compressed-tensors), `scale` (DeepSeek-V4), `scale_weight` (ComfyUI), `qscale_weight` (Mistral); `act_scale`
(AutoFP8 before it was `input_scale`), `activation_scale` (transformers). All of a kind multiply, but for
compressed-tensors' global scales, which divide where ModelOpt's `weight_scale_2` multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fp8load.errors import Problem
from fp8load.index.index import TensorMeta
from fp8load.scheme import Role

ALIASES: Mapping[Role, tuple[str, ...]] = {
    Role.WEIGHT_SCALE: ("weight_scale", "weight_scale_inv", "scale", "scale_weight", "qscale_weight", "scale_inv"),
    Role.INPUT_SCALE: ("input_scale", "activation_scale", "act_scale", "scale_input", "qscale_act"),
    Role.WEIGHT_GLOBAL_SCALE: ("weight_scale_2", "weight_global_scale"),
    Role.INPUT_GLOBAL_SCALE: ("input_global_scale", "input_scale", "input_scale_2"),
}
"""What tools call a scale, by its role."""

ROLES: Mapping[str, Role] = {name: role for role, names in reversed([*ALIASES.items()]) for name in names}

_ROLES_OF = {
    "F8L201": (Role.WEIGHT_SCALE,),
    "F8L204": (Role.INPUT_SCALE, Role.INPUT_GLOBAL_SCALE),
    "F8L205": (Role.WEIGHT_GLOBAL_SCALE,),
}
"""Code of a missing scale -> what it may be."""

_HINT = "rename it in the header, or correct the quantization method: the numbers mean the same under both names"
_RECIPROCAL = (
    "correct the quantization method: a global scale of compressed-tensors is the reciprocal of one of ModelOpt's"
)


def under_other_names(problems: Iterable[Problem], loose: Mapping[str, TensorMeta]) -> Iterator[Problem]:
    """The problems; a scale that is missing and stands there under another name is F8L203."""
    for problem in problems:
        yield _renamed(problem, loose) or problem


def _renamed(problem: Problem, loose: Mapping[str, TensorMeta]) -> Problem | None:
    module = problem.tensor.rpartition(".")[0]
    for role in _ROLES_OF.get(problem.code, ()):
        for alias in ALIASES[role]:
            meta = loose.get(f"{module}.{alias}")
            if meta is not None:
                return Problem(
                    code="F8L203", message="a scale has a name that readers of this format do not look for",
                    tensor=meta.name, module=module, file=meta.file, expected=problem.tensor, got=f"{meta.name} {meta}",
                    hint=_RECIPROCAL if role is Role.WEIGHT_GLOBAL_SCALE else _HINT,
                )  # fmt: skip
    return None
