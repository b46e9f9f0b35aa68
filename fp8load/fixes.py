"""Repairs of a checkpoint: which faults can be mended, what that changes, and a copy in which they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fp8load.errors import Problem, UsageError
from fp8load.fixable import by_itself, fixable
from fp8load.rules.base import Repair
from fp8load.rules.registry import rule_names
from fp8load.rules.repairs import repairs
from fp8load.verify import problems_of
from fp8load.writing.actions import Action
from fp8load.writing.changes import Changes, changes_of

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixes:
    """What would be repaired.

    changes  the files that a repaired copy would have
    counts   (code, what is done, faults), in the order of the codes
    left     the same for repairs that are only done where their code is named, and why
    failed   the same for repairs that were asked for and found nothing that they could do, and why
    """

    changes: Changes
    counts: tuple[tuple[str, str, int], ...]
    left: tuple[tuple[str, str, int], ...]
    failed: tuple[tuple[str, str, int], ...] = ()

    @property
    def num_fixed(self) -> int:
        """How many faults are repaired."""
        return sum(count for _, _, count in self.counts)

    def diff(self) -> str:
        """What changes: unified for JSON, one line for each tensor of other files."""
        return self.changes.diff()

    def write(self, out: str | Path) -> None:
        """Write a repaired copy into a new or empty folder. Raises `UsageError` and `SourceError`; then there is none.

        Weights are streamed; a file that does not change is a hard link to the original where the disk can.
        """
        self.changes.write(Path(out))

    def __repr__(self) -> str:
        return f"Fixes({self.num_fixed:,} faults; {len(self.changes.shards)} files written anew)"


def _every(_code: str) -> bool:
    return True


def plan_fixes(
    checkpoint: Checkpoint,
    codes: Sequence[str] = (),
    *,
    level: Level | None = None,
    engine: str | Sequence[str] | None = None,
    arch: str | None = None,
    keep: Callable[[str], bool] = _every,
) -> Fixes:
    """See `Checkpoint.fix`; of the codes `keep` says which count. Raises `UsageError` for a code that no repair has."""
    wanted = tuple(_checked(code) for code in codes)
    context, problems = problems_of(checkpoint, level, engine=engine, arch=arch)
    actions: list[Action] = []
    done: Counter[tuple[str, str]] = Counter()
    left: Counter[tuple[str, str]] = Counter()
    undone: list[tuple[Problem, Repair]] = []
    mended: set[tuple[str, str]] = set()
    known = repairs()
    for problem in dict.fromkeys(problem for problem in problems if keep(problem.code)):
        repair = known.get(problem.code)
        if repair is None:
            continue
        # What nobody asked for is not worked out: some repairs read tensors for that.
        if _is_wanted(repair, problem, wanted):
            found = list(repair.actions(context, problem))
            if found:
                done[problem.code, repair.title] += 1
                actions += found
                mended.add((problem.code, problem.module))
            else:
                undone.append((problem, repair))
        elif not wanted and repair.only_if and fixable(context, problem) is not None:
            left[problem.code, f"{repair.title}: {repair.only_if}"] += 1
    failed: Counter[tuple[str, str]] = Counter()
    for problem, repair in undone:
        if repair.part_of(context, problem) in mended:
            done[problem.code, repair.title] += 1
        elif repair.unless and repair.may(context, problem):
            failed[problem.code, f"{repair.unless} (the repair {repair.title})"] += 1
    return Fixes(changes=changes_of(checkpoint.source, checkpoint.index, actions), counts=_listed(done),
                 left=_listed(left), failed=_listed(failed))  # fmt: skip


def _is_wanted(repair: Repair, problem: Problem, wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return by_itself(repair, problem)
    return problem.code in wanted if repair.only_if else problem.code.startswith(wanted)


def _listed(counts: Counter[tuple[str, str]]) -> tuple[tuple[str, str, int], ...]:
    return tuple((code, title, count) for (code, title), count in sorted(counts.items()))


def _checked(code: str) -> str:
    """A code or a prefix of codes that some repair has, or a rule's name as its code."""
    names = {name: known for known, name in rule_names()}
    wanted = names.get(code.lower(), code.upper())
    if not any(known.startswith(wanted) for known in repairs()):
        raise UsageError(Problem(code="USE010", message="no repair is known for this", got=code,
                                 expected=", ".join(sorted(repairs()))))  # fmt: skip
    return wanted
