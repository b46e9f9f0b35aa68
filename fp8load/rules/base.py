"""What a rule is: documentation, a check, and examples that are executed by the tests.

A rule file `f8l201_missing_scale.py` defines `RULE = Rule(...)`. Its check yields `Problem`s, each with its severity;
grouping, suppression and rendering are done for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fp8load.errors import Problem, Severity

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint, Level
    from fp8load.engines.gpus import Gpu
    from fp8load.engines.profile import Profile
    from fp8load.rules.scales import ScaleReader
    from fp8load.rules.weights import WeightReader
    from fp8load.values.compare import Comparison
    from fp8load.writing.actions import Action

LEVELS = ("headers", "scales", "weights")
"""What may be read, from least to most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a check may look at.

    checkpoint  headers, configuration, schemes, family
    tp          tensor-parallel sizes that were asked for, or None
    scales      what the scales hold, read once for all rules; None at level headers
    weights     what the weights hold, read once for all rules; None below level weights
    engines     the engines that were named, or none
    gpu         the GPU that was named, or None
    against     how far the weights are from those of another checkpoint; None without one
    hash        whether whole files may be read, to be hashed
    """

    checkpoint: Checkpoint
    tp: tuple[int, ...] | None = None
    scales: ScaleReader | None = None
    weights: WeightReader | None = None
    engines: tuple[Profile, ...] = ()
    gpu: Gpu | None = None
    against: Comparison | None = None
    hash: bool = False

    def problems(self, code: str) -> Iterator[Problem]:
        """Problems that reading and lowering already found under this code."""
        return (problem for problem in self.checkpoint.problems if problem.code == code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A checkpoint as a skeleton, and what the rule says of it: how many problems (0: silent).

    values  for rules that read values: tensor name -> the number that every element has; of all others, scales are 1
            and weights have every finite code
    files   what happens to files afterwards: None removes one, bytes replace it, a number of bytes is cut off its end
            (below zero) or appended
    tp      tensor-parallel sizes that are asked for
    engine  the engine that is named, "vllm@0.33"
    arch    the GPU architecture that is named, "sm90"
    against the skeleton of the source that weights are compared with, and values in it
    """

    title: str
    skeleton: str
    count: int
    values: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes | int | None] = field(default_factory=dict)
    tp: tuple[int, ...] | None = None
    engine: str | None = None
    arch: str | None = None
    against: tuple[str, Mapping[str, float]] | None = None


def always(context: Context) -> bool:  # noqa: ARG001 - the signature of `Rule.runs`
    """A rule that needs nothing but its level."""
    return True


def may_always(context: Context, problem: Problem) -> bool:  # noqa: ARG001 - the signature of `Repair.may`
    """A repair that every fault of its code may need."""
    return True


def of_none(context: Context, problem: Problem) -> tuple[str, str] | None:  # noqa: ARG001 - as `Repair.part_of`
    """A repair that no other one includes."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """How a rule's faults are mended in a copy of the checkpoint.

    title    what is done, for people: "drops the scale"
    actions  a fault -> what changes; nothing for one that cannot be mended
    only_if  why it is done only where `--fix` names the code; "" where it is exact and there is one way to do it
    reads    `actions` looks into tensors to tell what can be mended: a report does not ask it
    may      whether a fault is of the kind that it is for, by headers and by scales that were measured: a report offers
             one that reads for these
    unless   why nothing may be done for a fault; told where its repair was asked for and finds nothing to do
    part_of  code and module of the fault whose repair mends this one as well, where `actions` has nothing; or None
    """

    title: str
    actions: Callable[[Context, Problem], Iterator[Action]]
    only_if: str = ""
    reads: bool = False
    may: Callable[[Context, Problem], bool] = may_always
    unless: str = ""
    part_of: Callable[[Context, Problem], tuple[str, str] | None] = of_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of `verify`.

    code, name     "F8L201", "missing-scale"; the name is what the rule finds
    level          the least that must be read
    severity       of a finding for every reader
    what, why, fix the documentation, in sentences
    check          yields one `Problem` for each fault
    examples       at least one that fires and one that is silent
    runs           whether what the rule needs beside its level was asked for; else it is listed as not run
    repair         what `verify --fix` does; those of this project lie in `fp8load/rules/repairs/`, by code
    """

    code: str
    name: str
    level: Level
    severity: Severity
    what: str
    why: str
    fix: str
    check: Callable[[Context], Iterator[Problem]]
    examples: tuple[Example, ...]
    since: str = "0.1"
    runs: Callable[[Context], bool] = always
    repair: Repair | None = None


def found(code: str) -> Callable[[Context], Iterator[Problem]]:
    """A check that passes on what reading and lowering found under `code`: they see every tensor anyway."""
    return lambda context: context.problems(code)
