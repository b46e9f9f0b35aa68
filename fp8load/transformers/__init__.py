"""A checkpoint as the model that transformers has for it, with fp8load's layers in place of its linear ones.

    import fp8load.transformers

    model = fp8load.transformers.from_pretrained("org/repo")
    model.generate(input_ids)

transformers is an extra, `fp8load[transformers]`. This package alone imports it; see docs/transformers.md.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch

import fp8load
from fp8load.errors import Problem, UsageError
from fp8load.fusion import Progress
from fp8load.runtime.devices import torch_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LoadOptions", "from_pretrained"]


class LoadOptions(TypedDict, total=False):
    """What `from_pretrained` takes beside, as keywords.

    requantize           as for `FusionPlan.load`
    progress             as for `FusionPlan.load`
    allow_unscaled       as for `fp8load.open`
    attn_implementation  as for transformers: "eager", "sdpa", ...
    """

    requantize: str | None
    progress: Progress | None
    allow_unscaled: bool
    attn_implementation: str | None


def from_pretrained(
    repo_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    backend: str | None = None,
    revision: str | None = None,
    **options: Unpack[LoadOptions],
) -> PreTrainedModel:
    """The checkpoint as `AutoModelForCausalLM.from_pretrained` would give it, its quantized layers run by fp8load.

    `dtype` is that of everything that is not quantized, and of what layers take and give; `backend` forces one kernel
    backend. The model is for inference: nothing in it wants a gradient, and `save_pretrained` refuses.

    Raises `UsageError` USE030 for a family that is not known to run here, USE031 where transformers is not installed,
    or too old, USE032 for a dtype that no model computes in, USE033 for a revision of what has none; `LoadError`
    FILL712 where checkpoint and model do not fit; and what `Checkpoint.plan` and `FusionPlan.load` raise.
    """
    if find_spec("transformers") is None:
        raise UsageError(Problem(
            code="USE031", message="transformers is not installed", expected="transformers 5.14 or newer",
            got="none", hint="pip install 'fp8load[transformers]'",
        ))  # fmt: skip
    from fp8load.transformers.build import Wanted, build

    wanted = Wanted(torch_device(device), _computes(dtype), backend, options.get("attn_implementation"))
    allow_unscaled = options.get("allow_unscaled", False)
    with fp8load.open(_at(repo_or_path, revision), allow_unscaled=allow_unscaled) as checkpoint:
        return build(checkpoint, wanted, requantize=options.get("requantize"), progress=options.get("progress"))


def _computes(dtype: torch.dtype) -> torch.dtype:
    """The dtype, if it is one of numbers that a model computes with."""
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise UsageError(Problem(code="USE032", message="no model computes in this dtype", got=str(dtype),
                                 expected="torch.bfloat16, torch.float16 or torch.float32"))  # fmt: skip
    return dtype


def _at(repo_or_path: str | Path, revision: str | None) -> str | Path:
    """The source with its revision. Raises `UsageError` for the revision of a path, or a second one."""
    from fp8load.source.spec import SourceKind, parse_source

    if revision is None:
        return repo_or_path
    spec = parse_source(repo_or_path)
    if spec.kind is not SourceKind.HUB or spec.revision is not None or spec.subpath:
        raise UsageError(Problem(
            code="USE033", message="a revision belongs to a repository that names none", file=str(repo_or_path),
            expected='"org/repo", revision="..."', got=f"revision={revision!r} beside {spec.kind}",
            hint="leave revision out",
        ))  # fmt: skip
    return f"{spec.repo_id}@{revision}"
