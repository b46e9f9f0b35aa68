"""Everything that can be wrong, as values and as exceptions.

A `Problem` is one fact: a code, a place, what was expected, what was found, and the next step. Stages that look at a
checkpoint collect problems, so that `verify` can report all of them; stages that must go on raise the first one.

    Fp8LoadError                     code, where, expected, got, hint
    ├── UsageError                   the caller asked for something that does not exist        exit 2
    ├── SourceError                  the source cannot be reached or read                      exit 3
    │   ├── NotFoundError            no such path, repository, revision or file
    │   ├── AccessError              gated, private, or a token that was refused
    │   ├── OfflineError             not in the cache, and the network is off
    │   └── NetworkError             the connection failed, broke, or answered nonsense
    ├── CheckpointError              the files contradict the format or each other             exit 3; verify: 1
    │   ├── HeaderError              a safetensors file or header is broken
    │   ├── ConfigError              a config file is broken, or names an unknown method
    │   └── FormatError              tensors and configuration contradict each other
    ├── PlanError                    no plan exists for this architecture, rank or size        exit 1
    ├── LoadError                    a tensor does not fit its slot
    │   ├── UnfilledSlotError        a slot was never written, or holds poison
    │   └── ChangedError             a file is no longer what it was when the plan was made
    ├── BackendError                 a kernel backend was asked for and cannot run             exit 1
    └── VerifyError                  raised by VerifyReport.raise_for_errors()                 exit 1
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class ExitCode(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    NO = 1
    USAGE = 2
    CANNOT_ANSWER = 3
    INTERRUPTED = 130


class Severity(enum.StrEnum):
    """How bad a problem is for every reader of the checkpoint."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fact that is wrong, with its place and the next step.

    `code` is the rule that reports it (RULES: F8L001 ...), or SRC/PLAN/FILL/BKD/USE for what no rule covers.
    `message` is one sentence without tensor names where `tensor` or `module` carries them, so that equal problems fold.
    `refuses` says whether loading stops on it; a problem may be reported and harmless.
    """

    code: str
    message: str
    tensor: str = ""
    module: str = ""
    file: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""
    severity: Severity = Severity.ERROR
    refuses: bool = True

    @property
    def where(self) -> str:
        """File and tensor (or module), as far as they are known."""
        subject = self.tensor or self.module
        if self.file and subject:
            return f"{self.file}: {subject}"
        return self.file or subject

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        for label in ("where", "expected", "got", "hint"):
            text = {"where": self.where, "expected": self.expected, "got": self.got, "hint": self.hint}[label]
            if text:
                lines.append(f"  {label:<8}  {text}")
        return "\n".join(lines)


class Fp8LoadError(Exception):
    """Base of every error of this project; `str()` names tensor and file, expected and got."""

    exit_code = ExitCode.CANNOT_ANSWER

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem

    @property
    def code(self) -> str:
        """The code to look up with `fp8load rule`."""
        return self.problem.code

    @property
    def where(self) -> str:
        """File and tensor, as far as they are known."""
        return self.problem.where

    @property
    def expected(self) -> str:
        """What should have been there."""
        return self.problem.expected

    @property
    def got(self) -> str:
        """What was there."""
        return self.problem.got

    @property
    def hint(self) -> str:
        """One next action."""
        return self.problem.hint

    def __reduce__(self) -> tuple[type[Fp8LoadError], tuple[Problem]]:
        return type(self), (self.problem,)


class UsageError(Fp8LoadError):
    """The caller asked for something that does not exist."""

    exit_code = ExitCode.USAGE


class SourceError(Fp8LoadError):
    """The source cannot be reached or read."""


class NotFoundError(SourceError):
    """No such path, repository, revision or file."""


class AccessError(SourceError):
    """Gated, private, or a token that was refused."""


class OfflineError(SourceError):
    """Not in the cache, and the network is off."""


class NetworkError(SourceError):
    """The connection failed, broke in the middle, or answered nonsense."""


class CheckpointError(Fp8LoadError):
    """The files contradict the format or each other."""


class HeaderError(CheckpointError):
    """A safetensors file or its header is broken."""


class ConfigError(CheckpointError):
    """A config file is broken, or names a method that is not known."""


class FormatError(CheckpointError):
    """Tensors and configuration contradict each other."""


class PlanError(Fp8LoadError):
    """No plan exists for this architecture, rank or size."""

    exit_code = ExitCode.NO


class LoadError(Fp8LoadError):
    """A tensor does not fit the slot that it is loaded into."""

    exit_code = ExitCode.NO


class UnfilledSlotError(LoadError):
    """A slot was never written, or still holds poison."""


class ChangedError(LoadError):
    """A file is no longer what it was when the plan was made."""


class BackendError(Fp8LoadError):
    """A kernel backend was asked for and cannot run here."""

    exit_code = ExitCode.NO


class VerifyError(Fp8LoadError):
    """`VerifyReport.raise_for_errors()`: the report has errors."""

    exit_code = ExitCode.NO


def error_for(problem: Problem) -> CheckpointError:
    """The exception for a problem found in a checkpoint's own files, chosen by the family of its code."""
    family = problem.code[:4]
    if family == "F8L0":
        return HeaderError(problem)
    if family == "F8L1":
        return ConfigError(problem)
    return FormatError(problem)


def raise_first(problems: tuple[Problem, ...] | list[Problem]) -> None:
    """Raise the first problem that refuses loading; its hint names the next ones and says how many there are."""
    refusing = [p for p in problems if p.refuses]
    if not refusing:
        return
    first = refusing[0]
    others = list(dict.fromkeys(p.where for p in refusing[1:] if p.where != first.where))
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        more = f"{len(others)} more places: {listed}; `fp8load verify` explains all"
        first = replace(first, hint=f"{first.hint} ({more})" if first.hint else more)
    raise error_for(first)
