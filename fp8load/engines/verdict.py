"""What an engine does with a part of a checkpoint, where that is not what the checkpoint means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp8load.engines.gpus import Gpu
from fp8load.engines.profile import Profile
from fp8load.engines.stored import Stored
from fp8load.errors import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked about, beside the engine: tensor-parallel sizes, and a GPU."""

    tp: tuple[int, ...] | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing that goes wrong in one engine.

    text      what the engine does, a sentence without its subject: "does not read a scale of this name"
    remedy    what a user can do about it
    severity  for a reader who named the engine
    loads     whether the engine still runs the checkpoint as it is meant
    """

    text: str
    remedy: str
    module: str = ""
    tensor: str = ""
    file: str = ""
    expected: str = ""
    got: str = ""
    severity: Severity = Severity.ERROR
    loads: bool = False


Ask = Callable[[Profile, Stored, Target], Iterator[Verdict]]
"""A question to an engine; silent where the profile does not say, or where nothing is wrong."""
