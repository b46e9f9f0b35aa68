"""Which findings count: --select and --ignore, suppressions of the configuration file, the baseline."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from fp8load.errors import Problem, Severity, UsageError
from fp8load.patterns import glob_match
from fp8load.report import Finding, VerifyReport
from fp8load_cli.config import Config, load_config
from fp8load_cli.output import write_file


def with_findings(report: VerifyReport, findings: Sequence[Finding]) -> VerifyReport:
    """The report with other findings, counted anew."""
    counts = Counter(finding.severity for finding in findings)
    summary = report.summary.model_copy(
        update={"error": counts[Severity.ERROR], "warning": counts[Severity.WARNING], "info": counts[Severity.INFO]}
    )
    return report.model_copy(update={"findings": list(findings), "summary": summary})


@dataclass(frozen=True, slots=True)
class Selection:
    """Codes by prefix, as in ruff: `--select` or everything, without `--ignore`, with `--extend-select` after all."""

    select: tuple[str, ...]
    ignore: tuple[str, ...]
    extend: tuple[str, ...]

    @classmethod
    def of(cls, select: list[str], ignore: list[str], extend: list[str]) -> Selection:
        """Checked against the rules that exist. Raises `UsageError` with the nearest code."""
        checked = [tuple(_checked(code) for code in codes) for codes in (select, ignore, extend)]
        return cls(*checked)

    def has(self, code: str) -> bool:
        """Whether a rule is wanted."""
        if code.startswith(self.extend):
            return True
        return (not self.select or code.startswith(self.select)) and not code.startswith(self.ignore)

    def apply(self, report: VerifyReport) -> VerifyReport:
        """The report without what is not wanted."""
        if not (self.select or self.ignore):
            return report
        summary = report.summary
        kept = {
            "passed": [code for code in summary.passed if self.has(code)],
            "not_run": [code for code in summary.not_run if self.has(code)],
            "crashed": [code for code in summary.crashed if self.has(code)],
        }
        report = report.model_copy(update={"summary": summary.model_copy(update=kept)})
        return with_findings(report, [finding for finding in report.findings if self.has(finding.code)])


def _checked(code: str) -> str:
    """A code, a prefix of codes, or a rule's name, as a prefix."""
    from fp8load.verify import rule_names

    names = {name: known for known, name in rule_names()}
    known = sorted(names.values())
    wanted = code.upper()
    if code.lower() in names:
        return names[code.lower()]
    if wanted != "F" and any(candidate.startswith(wanted) for candidate in known):
        return wanted
    prefixes = sorted({candidate[:length] for candidate in known for length in (4, 6)})
    near = get_close_matches(wanted, prefixes, 1) or get_close_matches(code.lower(), names, 1)
    hint = f"Did you mean {near[0]}{_how_many(near[0], known)}?" if near else "`fp8load rule --all` lists all"
    raise UsageError(Problem(code="USE010", message=f"no rule matches {code!r}", hint=hint))


def _how_many(prefix: str, known: list[str]) -> str:
    count = sum(code.startswith(prefix) for code in known)
    return f" ({count} rules)" if count > 1 else ""


@dataclass(frozen=True, slots=True)
class _Suppression:
    """One entry of the configuration or of the baseline: how it is called, and what it leaves of a finding."""

    title: str
    narrow: Callable[[Finding], Finding | None]


@dataclass(frozen=True, slots=True)
class Filters:
    """Suppressions, in order."""

    config: Config
    known: tuple[_Suppression, ...]

    def apply(self, report: VerifyReport) -> tuple[VerifyReport, list[str]]:
        """The report without suppressed findings, and a text for each suppression that matched nothing."""
        findings: list[Finding] = list(report.findings)
        unused: list[str] = []
        for suppression in (*_of_config(self.config, report.source.id), *self.known):
            narrowed = [(finding, suppression.narrow(finding)) for finding in findings]
            if all(before is after for before, after in narrowed):
                unused.append(f"{suppression.title} suppresses nothing")
            findings = [after for _, after in narrowed if after is not None]
        return with_findings(report, findings), unused


def load_filters(config: Path | None, baseline: Path | None) -> Filters:
    """Suppressions of the configuration file (given, or the nearest) and of the baseline. Raises `UsageError`."""
    return Filters(load_config(config), tuple(_of_baseline(baseline)) if baseline is not None else ())


def _of_config(config: Config, source: str) -> Iterator[_Suppression]:
    for code in config.ignore:
        yield _Suppression(f"{config.place}: ignore {code}", _drop(code))
    for glob, codes in config.per_source.items():
        if fnmatchcase(source, glob):
            for code in codes:
                yield _Suppression(f"{config.place}: per-source-ignore {glob!r} {code}", _drop(code))
    for glob, codes in config.per_module.items():
        for code in codes:
            yield _Suppression(f"{config.place}: per-module-ignore {glob!r} {code}", _drop_modules(code, glob))


def _drop(code: str) -> Callable[[Finding], Finding | None]:
    return lambda finding: None if finding.code.startswith(code) else finding


def _drop_modules(code: str, glob: str) -> Callable[[Finding], Finding | None]:
    def narrow(finding: Finding) -> Finding | None:
        if not finding.code.startswith(code) or not finding.modules:
            return finding
        modules = [name for name in finding.modules if not glob_match(glob, name)]
        if len(modules) == len(finding.modules):
            return finding
        if not modules and finding.count <= len(finding.modules):
            return None
        return _narrowed(finding, set(finding.modules) - set(modules))

    return narrow


def _narrowed(finding: Finding, gone: set[str]) -> Finding:
    """The finding without some modules. Names beyond those that it lists stay counted: nothing is hidden unseen."""
    from fp8load.rules.findings import pattern_of

    tensors = [name for name in finding.tensors if name.rpartition(".")[0] not in gone and name not in gone]
    modules = [name for name in finding.modules if name not in gone]
    removed = max(len(finding.tensors) - len(tensors), len(finding.modules) - len(modules))
    return finding.model_copy(update={
        "modules": modules, "tensors": tensors, "count": finding.count - removed,
        "pattern": pattern_of(tensors or modules) if tensors or modules else finding.pattern,
    })  # fmt: skip


def _identity(finding: Finding) -> tuple[str, str, str]:
    return finding.code, finding.pattern, finding.file


def write_known(path: Path, report: VerifyReport) -> None:
    """Write a baseline: code, pattern and file of each finding."""
    entries = [dict(zip(("code", "pattern", "file"), _identity(finding), strict=True)) for finding in report.findings]
    write_file(path, json.dumps({"schema": "fp8load.baseline/1", "findings": entries}, indent=2) + "\n")


def _of_baseline(path: Path) -> Iterator[_Suppression]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = [(entry["code"], entry["pattern"], entry["file"]) for entry in document["findings"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = "another JSON document" if isinstance(error, (KeyError, TypeError)) else str(error)
        if isinstance(error, OSError):
            got = error.strerror or got
        raise UsageError(Problem(
            code="USE012", message="the baseline cannot be read", file=str(path),
            expected="a file of --write-baseline", got=got,
            hint=f"make one: `fp8load verify SOURCE --write-baseline {path.name}`",
        )) from error  # fmt: skip
    for entry in entries:
        yield _Suppression(f"{path.name}: {entry[0]} {entry[1]}", _drop_identity(entry))


def _drop_identity(entry: tuple[str, str, str]) -> Callable[[Finding], Finding | None]:
    return lambda finding: None if _identity(finding) == entry else finding


def unfold(report: VerifyReport) -> VerifyReport:
    """One finding for each name. What a finding does not list stays one finding with its count."""
    one_file = report.source.files == 1
    return with_findings(report, [single for finding in report.findings for single in _singles(finding, one_file)])


_OTHERS = re.compile(r" \.\.\. and [\d,]+ others?$")


def _singles(finding: Finding, one_file: bool) -> Iterator[Finding]:
    """A folded finding has the facts of its first name; the others get only those that are the same for all."""
    names = finding.tensors or finding.modules
    if finding.count <= 1 or not names:
        yield finding
        return
    facts = {"expected": finding.expected, "got": finding.got}
    of_first = {label: _OTHERS.sub("", text) for label, text in facts.items()}
    of_others = {label: "" if _OTHERS.search(text) else text for label, text in facts.items()}
    by_file = finding.code.startswith("F8L0") or one_file
    for number, name in enumerate(names):
        update: dict[str, object] = {"count": 1, "pattern": name, "tensors": [], "modules": [name]}
        if finding.tensors:
            module = name.rpartition(".")[0]
            update |= {"tensors": [name], "modules": [module] if module else []}
        update |= of_others if number else of_first
        if number and not by_file:
            update |= {"file": "", "files": []}
        elif not by_file:
            update["files"] = [finding.file] if finding.file else []
        yield finding.model_copy(update=update)
    if finding.count > len(names):
        yield finding.model_copy(update={"count": finding.count - len(names), "tensors": [], "modules": []})
