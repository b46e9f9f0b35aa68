"""verify: run every rule over a checkpoint, and fold what they find into a report."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fp8load.checkpoint import Checkpoint, Level
from fp8load.engines.ask import portability
from fp8load.engines.gpus import find_gpu
from fp8load.engines.registry import find_profiles
from fp8load.engines.rounding import scales_to_round
from fp8load.engines.verdict import Target
from fp8load.errors import Problem, Severity, SourceError, UsageError
from fp8load.fixable import with_fixes
from fp8load.formats.stacked import stored_problems
from fp8load.inspection import read_report, source_report
from fp8load.report import Finding, Summary, VerifyReport
from fp8load.rules.base import LEVELS, Context, Rule
from fp8load.rules.explain import explanations
from fp8load.rules.families import Families
from fp8load.rules.findings import finding_of, grouped
from fp8load.rules.fused import can_be_planned
from fp8load.rules.registry import find_rule, rule_names, rules
from fp8load.rules.scales import ScaleReader
from fp8load.rules.weights import WeightReader
from fp8load.source.base import Source
from fp8load.values.compare import compared
from fp8load.values.report import against_report

__all__ = ["default_level", "find_rule", "problems_of", "rule_names", "rules", "verify_report"]

log = logging.getLogger("fp8load.verify")


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What became of each rule, and everything that was found."""

    problems: list[Problem] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)


def verify_report(
    checkpoint: Checkpoint,
    *,
    level: Level | None,
    tp: Sequence[int] | None,
    engine: str | Sequence[str] | None = None,
    arch: str | None = None,
    against: Checkpoint | None = None,
    hash: bool = False,
) -> VerifyReport:
    """Run the rules that `level` allows, for every reader or for the engines and the GPU that are named.

    `against` is a source that weights are compared with, which takes level weights; `hash` also reads whole files.

    Faults of the checkpoint are findings. Raises `SourceError` when scales cannot be read, and `UsageError` for a
    level, a tensor-parallel size, an engine or a GPU that does not exist. A rule that fails is listed in
    `summary.crashed`, with its traceback in the log.
    """
    level = _level(checkpoint, level, compares=against is not None)
    sizes = None if tp is None else _checked_sizes(tp)
    comparison = None if against is None else compared(checkpoint, against)
    context = replace(_context(checkpoint, level, engine, arch), tp=sizes, against=comparison, hash=hash)
    engines, gpu = context.engines, context.gpu
    outcome = _run(context, level)
    findings = with_fixes(_findings(outcome.problems, checkpoint), outcome.problems, context)
    counts = Counter(finding.severity for finding in findings)
    return VerifyReport(
        source=source_report(checkpoint.source, checkpoint.index),
        level=level,
        tp=None if sizes is None else list(sizes),
        legal_tp=checkpoint.legal_tp() if can_be_planned(checkpoint) else None,
        engines=[profile.spec for profile in engines],
        gpu=None if gpu is None else gpu.name,
        portability=portability(checkpoint.stored, Target(tp=sizes, gpu=gpu), engines),
        read=read_report(checkpoint.source),
        summary=Summary(
            error=counts[Severity.ERROR], warning=counts[Severity.WARNING], info=counts[Severity.INFO],
            passed=outcome.passed, not_run=outcome.not_run, crashed=outcome.crashed,
        ),
        findings=findings,
        against=None if comparison is None else against_report(comparison),
    )  # fmt: skip


def problems_of(
    checkpoint: Checkpoint, level: Level | None, *, engine: str | Sequence[str] | None = None, arch: str | None = None
) -> tuple[Context, list[Problem]]:
    """Everything that the rules of `level` find, not folded yet, and the context to ask more in.

    Raises `SourceError` when scales cannot be read, and `UsageError` for a level, an engine or a GPU that does not
    exist.
    """
    level = _level(checkpoint, level, compares=False)
    context = _context(checkpoint, level, engine, arch)
    pieces = checkpoint.lowered.pieces
    problems = _run(context, level).problems
    return context, list(stored_problems(problems, pieces)) if pieces else problems


def _context(checkpoint: Checkpoint, level: Level, engine: str | Sequence[str] | None, arch: str | None) -> Context:
    """What rules of the level may read, for every reader or for the engines and the GPU that are named."""
    engines, gpu = find_profiles(engine or ()), None if arch is None else find_gpu(arch)
    to_round = scales_to_round(engines, checkpoint.stored, Target(gpu=gpu))
    return Context(
        checkpoint=checkpoint,
        scales=None if level == "headers" else ScaleReader(checkpoint, to_round),
        weights=WeightReader(checkpoint) if level == "weights" else None,
        engines=engines,
        gpu=gpu,
    )


def default_level(source: Source) -> Level:
    """Headers where small scattered reads are slow or there is no data to read, else scales."""
    return "headers" if source.remote or source.info.kind == "skeleton" else "scales"


def _level(checkpoint: Checkpoint, level: Level | None, *, compares: bool) -> Level:
    if level is None:
        return "weights" if compares else default_level(checkpoint.source)
    if compares and level != "weights":
        raise UsageError(Problem(code="USE006", message="weights are compared at level weights only",
                                 expected="level weights, or none", got=repr(level)))  # fmt: skip
    if level not in LEVELS:
        raise UsageError(Problem(code="USE006", message="no such level", expected=", ".join(LEVELS), got=repr(level)))
    return level


def _checked_sizes(tp: Sequence[int]) -> tuple[int, ...]:
    if isinstance(tp, int):
        raise UsageError(Problem(code="USE004", message="tensor-parallel sizes come as a sequence",
                                 expected=f"tp=({tp},)", got=f"tp={tp}"))  # fmt: skip
    for size in tp:
        if size < 1:
            raise UsageError(Problem(code="USE004", message="a tensor-parallel size is not a number of ranks",
                                     expected="integers >= 1", got=str(size)))  # fmt: skip
    return tuple(dict.fromkeys(tp))


def _run(context: Context, level: Level) -> _Outcome:
    outcome = _Outcome()
    claimed: set[str] = set()
    for rule in rules():
        if LEVELS.index(rule.level) > LEVELS.index(level) or not rule.runs(context):
            outcome.not_run.append(rule.code)
            continue
        found = _check(rule, context)
        if found is None:
            outcome.crashed.append(rule.code)
            continue
        claimed.add(rule.code)
        outcome.problems += found
        if not found:
            outcome.passed.append(rule.code)
    # What reading and lowering found is reported even where no rule file is for it, or the one that is crashed.
    outcome.problems += [problem for problem in context.checkpoint.problems if problem.code not in claimed]
    return outcome


def _check(rule: Rule, context: Context) -> list[Problem] | None:
    """What one rule finds, or None when it failed."""
    try:
        found = list(rule.check(context))
    except SourceError:
        raise
    except Exception:  # of any kind: the other rules still run, and the report says that this one did not
        log.exception("rule %s (%s) crashed", rule.code, rule.name)
        return None
    log.debug("rule %s (%s): %d found", rule.code, rule.name, len(found))
    return found


def _findings(problems: list[Problem], checkpoint: Checkpoint) -> list[Finding]:
    names = dict(rule_names())
    pieces = checkpoint.lowered.pieces
    groups = grouped(stored_problems(problems, pieces) if pieces else problems)
    causes = explanations(groups, checkpoint.index)
    families = Families(checkpoint.index.tensors)
    return [
        finding_of(group, names, cause, families.share(group.tensors()))
        for group, cause in zip(groups, causes, strict=True)
    ]
