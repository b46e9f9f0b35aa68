"""From many problems to few findings: equal faults are folded into one, with a name pattern and a count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fp8load.errors import Problem, Severity
from fp8load.patterns import fold, natural_key
from fp8load.report import Finding

MAX_NAMES = 100
"""Names that a finding lists; its count and its pattern stand for all."""

MAX_PATTERNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Problems that read alike, in natural order of their names.

    Faults of files stay apart by file, because each file has to be fetched or repaired by itself; notes do not.
    """

    code: str
    severity: Severity
    message: str
    problems: tuple[Problem, ...]

    def names(self) -> list[str]:
        """What the problems are about: tensors, else modules, else files."""
        named = [problem.tensor or problem.module or problem.file for problem in self.problems]
        return [name for name in dict.fromkeys(named) if name]

    def tensors(self) -> list[str]:
        """Tensors by their literal names."""
        return list(dict.fromkeys(problem.tensor for problem in self.problems if problem.tensor))

    def modules(self) -> list[str]:
        """The modules that are said, or that the tensors' names begin with."""
        return [module for module in dict.fromkeys(map(module_of, self.problems)) if module]


def module_of(problem: Problem) -> str:
    """The module of a problem: the one it names, else its tensor's name without the last component."""
    return problem.module or problem.tensor.rpartition(".")[0]


def grouped(problems: Iterable[Problem]) -> list[Group]:
    """Groups by code, severity, message and hint; ordered by code, then by the natural order of the names."""
    table: dict[tuple[str, ...], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        apart = problem.code.startswith("F8L0") and problem.severity is not Severity.INFO
        file = problem.file if apart else ""
        key = (problem.code, problem.severity, problem.message, problem.hint, file)
        table.setdefault(key, []).append(problem)
    groups = [
        Group(code=members[0].code, severity=members[0].severity, message=members[0].message,
              problems=tuple(sorted(members, key=_order)))
        for members in table.values()
    ]  # fmt: skip
    return sorted(groups, key=lambda group: (group.code, _order(group.problems[0]), group.message, group.severity))


def _order(problem: Problem) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
    return natural_key(problem.tensor or problem.module), natural_key(problem.file)


def finding_of(group: Group, names: Mapping[str, str], explained_by: str | None, siblings: str = "") -> Finding:
    """The finding that stands for a group. `names` gives the name of each code, `siblings` its part of a family."""
    first = group.problems[0]
    return Finding(
        code=group.code,
        name=names.get(group.code, "problem"),
        severity=group.severity,
        count=len(group.problems),
        pattern=pattern_of(group.names()),
        modules=group.modules()[:MAX_NAMES],
        tensors=group.tensors()[:MAX_NAMES],
        file=first.file,
        files=list(dict.fromkeys(problem.file for problem in group.problems if problem.file))[:MAX_NAMES],
        message=group.message,
        expected=_example(problem.expected for problem in group.problems),
        got=_example(problem.got for problem in group.problems),
        hint=first.hint,
        explained_by=explained_by,
        siblings=siblings,
    )


def _example(texts: Iterable[str]) -> str:
    """The first text, and how many others there are."""
    distinct = dict.fromkeys(texts)
    first = next(iter(distinct))
    others = len(distinct) - 1
    return f"{first} ... and {others:,} other{'s' if others > 1 else ''}" if others else first


def pattern_of(names: list[str]) -> str:
    """Names folded: at most three patterns, then how many more."""
    patterns = list(_patterns(names))
    shown = ", ".join(patterns[:MAX_PATTERNS])
    more = len(patterns) - MAX_PATTERNS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _patterns(names: list[str]) -> Iterator[str]:
    return (pattern for pattern, _ in fold(names))
