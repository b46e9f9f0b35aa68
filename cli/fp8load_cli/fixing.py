"""`verify --fix` and `--diff`: what can be repaired, shown, and written into a new folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fp8load.errors import Problem, UsageError
from fp8load_cli.options import comma_list
from fp8load_cli.render.units import plural, size
from fp8load_cli.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from fp8load.checkpoint import Checkpoint, Level
    from fp8load.fixes import Fixes

ALL = "all"
"""The value of a `--fix` that names no codes."""

_CODES = re.compile(r"(?:(?i:f8[a-z]\d*)|[A-Z]+\d+)(?:,(?:(?i:f8[a-z]\d*)|[A-Z]+\d+))*,?")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options ask for: repairs of these codes (none: all that are safe), and where the copy goes."""

    codes: tuple[str, ...]
    out: Path | None
    diff: bool


def with_value(words: list[str]) -> list[str]:
    """The command line with `--fix` given a value where it has none: what follows it is codes, or something else."""
    result: list[str] = []
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else ""
        is_bare = word == "--fix" and not _CODES.fullmatch(following) and following != ALL
        result.append(f"--fix={ALL}" if is_bare else word)
    return result


def wish_of(fix: list[str] | None, out: Path | None, *, diff: bool, chosen: str) -> Wish | None:
    """The wish, or None where nothing is to be repaired. Raises `UsageError` for options that do not go together."""
    if not fix and not diff:
        if out is not None:
            raise _useless("--out is where --fix writes", "--fix --out DIR")
        return None
    if diff and out is not None:
        raise _useless("--diff shows what --fix would write, and writes nothing", "--diff, or --fix --out DIR")
    if diff and chosen != "text":
        raise _useless("--diff is a text of its own", f"no --format {chosen}")
    if not diff and out is None:
        raise _useless("nothing is changed in place", "--fix --out DIR, which writes a repaired copy; or --diff")
    return Wish(tuple(code for code in comma_list(fix) if code != ALL), out, diff)


def _useless(message: str, expected: str) -> UsageError:
    return UsageError(Problem(code="USE010", message=message, expected=expected))


def planned(
    checkpoint: Checkpoint, wish: Wish, keep: Callable[[str], bool], *, level: Level | None,
    engine: list[str] | None, arch: str | None,
) -> Fixes:  # fmt: skip
    """The repairs that are wished for, of what a report with the same options finds.

    Raises `UsageError` for a skeleton, which has no data to repair.
    """
    if checkpoint.source.info.kind == "skeleton":
        raise UsageError(Problem(code="USE010", message="a skeleton has no data to repair",
                                 expected="the checkpoint itself", got=checkpoint.source.info.id))  # fmt: skip
    from fp8load.fixes import plan_fixes

    return plan_fixes(checkpoint, wish.codes, level=level, engine=engine, arch=arch, keep=keep)


def tell(run: Run, fixes: Fixes, out: Path | None) -> None:
    """What was repaired and what was not, for people: on stderr."""
    for code, title, count in fixes.counts:
        run.out.note(f"{'fixed' if out else 'would fix'} {count:,} x {code}: {title}")
    for code, why, count in fixes.left:
        run.out.note(f"left {count:,} x {code}, unless --fix {code}: {why}")
    for code, why, count in fixes.failed:
        run.out.note(f"cannot fix {count:,} x {code}: {why}")
    if not fixes.counts:
        run.out.note("nothing was repaired" if fixes.left or fixes.failed else "nothing to repair")
    elif out is not None:
        changed = len(fixes.changes.documents) + len(fixes.changes.shards)
        run.out.note(f"wrote {out}: {plural(changed, 'file')} anew ({size(fixes.changes.nbytes)})")
