"""Asking engines: the question behind each rule, the problems of engines that are named, and who loads a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fp8load.engines import blocks, encodings, groups, ignore, machines, names, reads, rounding
from fp8load.engines.profile import Profile
from fp8load.engines.registry import newest, profiles
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Ask, Target, Verdict
from fp8load.errors import Problem, Severity
from fp8load.report import EngineReport

ASKS: dict[str, Ask] = {
    "F8L105": groups.of_fused,
    "F8L107": reads.schemes,
    "F8L108": reads.drift,
    "F8L203": names.suffixes,
    "F8L208": names.unquantized,
    "F8L209": names.experts,
    "F8L305": ignore.linears,
    "F8L307": ignore.granularity,
    "F8L401": encodings.fused,
    "F8L504": blocks.merged,
    "F8L601": encodings.scale_dtypes,
    "F8L602": encodings.weights,
    "F8L603": encodings.exponents,
    "F8L707": rounding.scales,
    "F8L902": encodings.kv_names,
    "F8T001": machines.supported,
}
"""Rule -> what it asks an engine."""

CONVERTER = "F8T003"
OF_CONVERTERS = ("F8L107", "F8L203", "F8L209", "F8L601", "F8L603", "F8L902")
"""What a converter is asked, and the rule that says all of it."""


def verdicts(code: str, profile: Profile, stored: Stored, target: Target) -> Iterator[Verdict]:
    """What a rule has to say of one engine."""
    if code == CONVERTER:
        if profile.role == "converter":
            for asked in OF_CONVERTERS:
                # What costs an engine accuracy on some GPU is in the file that a converter writes, for good.
                for verdict in ASKS[asked](profile, stored, target):
                    yield verdict if verdict.loads else replace(verdict, severity=Severity.ERROR)
    elif profile.role == "engine":
        yield from ASKS[code](profile, stored, target)


def problem(code: str, verdict: Verdict, message: str, severity: Severity) -> Problem:
    """A verdict as a problem that folds with its like."""
    return Problem(
        code=code, message=message, tensor=verdict.tensor, module=verdict.module, file=verdict.file,
        expected=verdict.expected, got=verdict.got, hint=verdict.remedy, severity=severity, refuses=False,
    )  # fmt: skip


def of_named(code: str, asked: tuple[Profile, ...], stored: Stored, target: Target) -> Iterator[Problem]:
    """The problems of the engines that a user named, as loud as they are there."""
    for profile in asked:
        for verdict in verdicts(code, profile, stored, target):
            yield problem(code, verdict, f"{profile} {verdict.text}", verdict.severity)


def of_any(code: str, stored: Stored, target: Target) -> Iterator[Problem]:
    """Where engines differ, for a user who named none: a note for each fault, with the engines that have it."""
    found: dict[tuple[str, ...], tuple[Verdict, list[str]]] = {}
    for profile in profiles():
        for verdict in verdicts(code, profile, stored, target):
            key = (verdict.module, verdict.tensor, verdict.file)
            found.setdefault(key, (verdict, []))[1].append(str(profile))
    for verdict, titles in found.values():
        noted = replace(verdict, remedy="--engine says what each of them does with it")
        yield problem(code, noted, f"not every engine reads this: not {', '.join(titles)}", Severity.INFO)


def portability(stored: Stored, target: Target, asked: tuple[Profile, ...]) -> list[EngineReport]:
    """Which engines load a checkpoint as it is meant, and what stops the others: of each engine the newest version,
    or those that are asked for. Nobody is asked of a checkpoint without quantized layers."""
    if not stored.held:
        return []
    return [_report(profile, stored, target) for profile in asked or newest()]


def _report(profile: Profile, stored: Stored, target: Target) -> EngineReport:
    codes = (CONVERTER,) if profile.role == "converter" else ASKS
    faults = {code: next((one for one in verdicts(code, profile, stored, target) if not one.loads), None)
              for code in codes}  # fmt: skip
    against = {code: verdict for code, verdict in faults.items() if verdict is not None}
    first = next(iter(against.values()), None)
    return EngineReport(
        engine=profile.engine, version=profile.versions[0], title=str(profile), role=profile.role,
        loads=not against, why="" if first is None else first.text, codes=list(against), read_from=profile.read_from,
    )  # fmt: skip
