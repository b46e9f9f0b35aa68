"""Open, inspect, verify, plan and load quantized LLM checkpoints.

    ckpt = fp8load.open("org/repo")          headers only; torch is not imported
    ckpt.verify().raise_for_errors()
    model = ckpt.plan(tp_rank=0, tp_size=8).load(device="cuda")

Everything after `open` is a method on the object that has the data; there are no global settings.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fp8load.errors import ExitCode, Fp8LoadError, Severity
from fp8load.version import VERSION

if TYPE_CHECKING:
    from types import ModuleType

    from fp8load.checkpoint import Checkpoint
    from fp8load.fusion import Progress
    from fp8load.runtime.model import LoadedModel
    from fp8load.runtime.sharing import Group
    from fp8load.source.base import Source

__all__ = ["ExitCode", "Fp8LoadError", "Severity", "__version__", "load", "open"]

__version__ = VERSION

logging.getLogger("fp8load").addHandler(logging.NullHandler())


def __getattr__(name: str) -> ModuleType:
    """`fp8load.transformers`, imported when it is asked for: it takes torch, and an extra."""
    if name == "transformers":
        return importlib.import_module("fp8load.transformers")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(source: str | Path | Source, *, allow_unscaled: bool = False) -> Checkpoint:
    """Open a checkpoint by its headers and small files.

    `source` is a folder, a .safetensors file, a .skel skeleton, "org/repo", "org/repo@rev", an hf:// or huggingface.co
    URL, or a `Source`. An existing path wins over a repository of the same name. `allow_unscaled`: FP8 weights without
    a scale are raw casts, whose codes are the numbers; without it they are refused, because a lost scale looks the
    same. Raises `SourceError`.
    """
    from fp8load.checkpoint import Checkpoint
    from fp8load.index.build import build_index
    from fp8load.source.spec import open_source, parse_source

    opened = open_source(parse_source(source)) if isinstance(source, str | Path) else source
    return Checkpoint(opened, build_index(opened), allow_unscaled=allow_unscaled)


def load(  # noqa: PLR0913 - the options of open, plan and load, by name
    source: str | Path | Source,
    *,
    device: str = "cpu",
    tp_rank: int = 0,
    tp_size: int = 1,
    ep_rank: int = 0,
    ep_size: int = 1,
    backend: str | Sequence[str] | None = None,
    requantize: str | None = None,
    quantize: str | None = None,
    progress: Progress | None = None,
    allow_unscaled: bool = False,
    group: Group | None = None,
) -> LoadedModel:
    """Open, plan and load one rank: `open(source).plan(...).load(...)`, with their errors.

    A device mesh as `group`, with dimensions named "tp" or "ep", says the rank as well. `quantize` ("fp8-tensor",
    "fp8-channel", "fp8-block"): an unquantized checkpoint becomes FP8 layers as it is read.
    """
    with open(source, allow_unscaled=allow_unscaled) as checkpoint:
        if group is not None and (tp_size, ep_size) == (1, 1):
            from fp8load.runtime.sharing import rank_of

            (tp_rank, tp_size), (ep_rank, ep_size) = rank_of(group)
        plan = checkpoint.plan(tp_rank=tp_rank, tp_size=tp_size, ep_rank=ep_rank, ep_size=ep_size, quantize=quantize)
        return plan.load(device=device, backend=backend, requantize=requantize, progress=progress, group=group)
