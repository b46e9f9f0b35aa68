"""`fp8load verify`: is a checkpoint loadable and sane."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer

from fp8load.errors import ExitCode, Problem, Severity, UsageError
from fp8load_cli.help import HUB_ENVIRONMENT
from fp8load_cli.opening import opened, progress
from fp8load_cli.options import AllowUnscaled, Source, comma_list, command
from fp8load_cli.output import progress_stream
from fp8load_cli.run import Run
from fp8load_cli.settings import no_such_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fp8load.checkpoint import Checkpoint, Level
    from fp8load.report import VerifyReport
    from fp8load_cli.filters import Selection
    from fp8load_cli.fixing import Wish
    from fp8load_cli.render.html import Parts

FORMATS = ("text", "concise", "json", "jsonl", "github", "gitlab", "sarif", "junit", "md", "html")
FAIL_ON = ("error", "warning")
_WHAT = "What to check"
_RESULT = "What to make of it"
_SHOW = "What to show"
_REPAIR = "What to repair"
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


_Level = Annotated[
    str | None,
    typer.Option(
        "--level",
        metavar="headers|scales|weights",
        help="What may be read. Default: scales; headers where reading is slow.",
        rich_help_panel=_WHAT,
    ),
]
_Select = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="CODES", help="Only these rules; F8L2 is every F8L2xx.", rich_help_panel=_WHAT),
]
_ExtendSelect = Annotated[
    list[str] | None,
    typer.Option(
        "--extend-select", metavar="CODES", help="These too, after --select or --ignore.", rich_help_panel=_WHAT
    ),
]
_Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="CODES", help="Not these.", rich_help_panel=_WHAT)
]
_Tp = Annotated[
    list[str] | None,
    typer.Option("--tp", metavar="1,2,8", help="Tensor-parallel sizes that have to work.", rich_help_panel=_WHAT),
]
_Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="SOURCE2",
        help="Compare dequantized weights with those of another checkpoint, such as the BF16 one. Reads all of both.",
        rich_help_panel=_WHAT,
    ),
]
_Hash = Annotated[
    bool,
    typer.Option("--hash", help="Compare whole files with their published checksums.", rich_help_panel=_WHAT),
]
_Engine = Annotated[
    list[str] | None,
    typer.Option("--engine", metavar="vllm@0.33", help="Engines that have to load it.", rich_help_panel=_WHAT),
]
_Arch = Annotated[
    str | None, typer.Option("--arch", metavar="sm90", help="The GPU that has to run it.", rich_help_panel=_WHAT)
]
_FailOn = Annotated[
    str, typer.Option("--fail-on", metavar="error|warning", help="Exit 1 from here on.", rich_help_panel=_RESULT)
]
_ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever is found.", rich_help_panel=_RESULT)]
_Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="Leave out the findings that FILE knows.", rich_help_panel=_RESULT),
]
_WriteBaseline = Annotated[
    Path | None,
    typer.Option(
        "--write-baseline", metavar="FILE", help="Write the findings there and exit 0.", rich_help_panel=_RESULT
    ),
]
_MaxFindings = Annotated[
    int | None, typer.Option("--max-findings", min=0, metavar="N", help="Show at most N.", rich_help_panel=_SHOW)
]
_Group = Annotated[bool, typer.Option("--group/--no-group", help="Fold equal findings.", rich_help_panel=_SHOW)]
_Statistics = Annotated[
    bool, typer.Option("--statistics", help="Only how often each rule fires.", rich_help_panel=_SHOW)
]
_Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="[CODES]",
        help="Repair a copy: what is exact, or these codes (lossy ones are named in full).",
        rich_help_panel=_REPAIR,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where --fix writes: a new or empty folder.", rich_help_panel=_REPAIR),
]
_Diff = Annotated[bool, typer.Option("--diff", help="Show what --fix would change.", rich_help_panel=_REPAIR)]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=FORMATS,
        examples=(
            "fp8load verify org/repo --engine vllm@0.33,sglang --tp 8 --arch sm90",
            "fp8load verify ./my-checkpoint --select F8L2 --format github",
            "fp8load verify ./my-checkpoint --fix --out ./repaired",
        ),
        codes={
            0: "nothing at or above --fail-on; --fix: in the copy; --diff: nothing to repair",
            1: "findings at or above --fail-on, broken files and configuration included",
            3: "could not answer: not found, offline, or a rule crashed",
        },
        environment=HUB_ENVIRONMENT,
    )(verify)


def verify(  # noqa: PLR0913 - its options
    run: Run,
    source: Source,
    *,
    level: _Level = None,
    select: _Select = None,
    extend_select: _ExtendSelect = None,
    ignore: _Ignore = None,
    tp: _Tp = None,
    against: _Against = None,
    hash: _Hash = False,
    engine: _Engine = None,
    arch: _Arch = None,
    fail_on: _FailOn = "error",
    exit_zero: _ExitZero = False,
    baseline: _Baseline = None,
    write_baseline: _WriteBaseline = None,
    max_findings: _MaxFindings = None,
    group: _Group = True,
    statistics: _Statistics = False,
    fix: _Fix = None,
    out: _Out = None,
    diff: _Diff = False,
    allow_unscaled: AllowUnscaled = False,
) -> ExitCode:
    """Check whether a checkpoint can be loaded and is sane.

    Faults of its files are findings, not failures. Rules that need more than --level allows are listed as not run.
    --fix repairs a copy and reports on that; nothing is ever changed in place.
    """
    from fp8load_cli.fixing import wish_of

    _check_choices(fail_on, run.settings.format, statistics=statistics)
    from fp8load_cli.filters import Selection, load_filters, unfold
    from fp8load_cli.render.verify import render

    wanted = Selection.of(comma_list(select), comma_list(ignore), comma_list(extend_select))
    # A baseline that is written holds all of today's findings, those of the last one too.
    filters = load_filters(run.settings.config, None if write_baseline is not None else baseline)
    keep = partial(_is_wanted, wanted, filters.config.ignore)
    wish = wish_of(fix, out, diff=diff, chosen=run.settings.format)
    engines = _engines(engine)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(opened(run, source, allow_unscaled=allow_unscaled))
        other = None if against is None else stack.enter_context(opened(run, against, allow_unscaled=True))
        asked = _Question(cast("Level | None", level), _sizes(tp), engines, arch, other, hash)
        if wish is not None and wish.diff:
            return _show_diff(run, checkpoint, wish, asked, keep)
        report, parts = _report(run, checkpoint, wish, asked=asked, keep=keep)
    report, unused = filters.apply(wanted.apply(report))
    shown = report if group else unfold(report)
    _tell_before(run, report, unused, write_baseline)
    run.out.report(render(run, shown, limit=max_findings, statistics=statistics, parts=parts))
    _tell_after(run, report)
    return _exit_code(report, fail_on, forgiving=exit_zero or write_baseline is not None)


def _is_wanted(wanted: Selection, ignored: tuple[str, ...], code: str) -> bool:
    """Whether a rule's faults are reported and repaired."""
    return wanted.has(code) and not code.startswith(ignored)


def _tell_before(run: Run, report: VerifyReport, unused: list[str], baseline: Path | None) -> None:
    """Suppressions that matched nothing, and the baseline, which is written."""
    from fp8load_cli.filters import write_known

    for text in unused:
        run.out.warning(text)
    if baseline is not None:
        write_known(baseline, report)
        run.out.note(f"wrote {len(report.findings)} findings to {baseline}")


def _tell_after(run: Run, report: VerifyReport) -> None:
    """The verdict, where the report went into a file, and rules that failed."""
    from fp8load_cli.render.verify import verdict

    if run.settings.output is not None:
        run.out.note(verdict(report))
    if report.summary.crashed:
        run.out.warning(f"rules that crashed: {', '.join(report.summary.crashed)}; -v shows why")


def _show_diff(run: Run, checkpoint: Checkpoint, wish: Wish, asked: _Question, keep: Callable[[str], bool]) -> ExitCode:
    from fp8load_cli.fixing import planned, tell

    fixes = planned(checkpoint, wish, keep, level=asked.level, engine=asked.engine, arch=asked.arch)
    run.out.report(fixes.diff())
    tell(run, fixes, None)
    return ExitCode.OK if fixes.changes.is_empty else ExitCode.NO


class _Question(NamedTuple):
    """What is asked of a checkpoint: the arguments of `Checkpoint.verify`."""

    level: Level | None
    tp: list[int] | None
    engine: list[str] | None
    arch: str | None
    against: Checkpoint | None
    hash: bool


def _report(
    run: Run, checkpoint: Checkpoint, wish: Wish | None, *, asked: _Question, keep: Callable[[str], bool]
) -> tuple[VerifyReport, Parts | None]:
    """The report on a checkpoint, or on the copy that --fix writes of it; and what a page shows beside it."""
    if wish is None or wish.out is None:
        return _checked(run, checkpoint, asked)
    import fp8load
    from fp8load.report import FixReport
    from fp8load_cli.fixing import planned, tell

    fixes = planned(checkpoint, wish, keep, level=asked.level, engine=asked.engine, arch=asked.arch)
    fixed = [FixReport(code=code, title=title, count=count) for code, title, count in fixes.counts]
    if fixes.changes.is_empty:
        tell(run, fixes, None)
        report, parts = _checked(run, checkpoint, asked)
        return report.model_copy(update={"fixed": fixed}), parts
    fixes.write(wish.out)
    tell(run, fixes, wish.out)
    with fp8load.open(wish.out, allow_unscaled=checkpoint.allow_unscaled) as copy:
        report, parts = _checked(run, copy, asked)
    return report.model_copy(update={"fixed": fixed}), parts


def _checked(run: Run, checkpoint: Checkpoint, asked: _Question) -> tuple[VerifyReport, Parts | None]:
    with progress(progress_stream(run.settings), checkpoint.source.meter):
        report = checkpoint.verify(
            asked.level, tp=asked.tp, engine=asked.engine, arch=asked.arch, against=asked.against, hash=asked.hash
        )
    if run.settings.format != "html":
        return report, None
    from fp8load_cli.render.html import Parts

    return report, Parts.of(checkpoint, values=report.level != "headers")


def _check_choices(fail_on: str, chosen: str, *, statistics: bool) -> None:
    if fail_on not in FAIL_ON:
        raise no_such_choice("--fail-on", fail_on, FAIL_ON)
    if statistics and chosen not in ("text", "md"):
        raise UsageError(
            Problem(code="USE010", message="--statistics is for people", expected="--format text or md", got=chosen)
        )


def _engines(values: list[str] | None) -> list[str] | None:
    """Engines by comma. An empty name, of a variable that is not set, stays one: nobody has it, and it is refused."""
    return (comma_list(values) or [""]) if values else None


def _sizes(texts: list[str] | None) -> list[int] | None:
    items = comma_list(texts)
    try:
        return [int(item) for item in items] or None
    except ValueError as error:
        raise UsageError(
            Problem(code="USE010", message="--tp takes numbers", expected="1,2,8", got=", ".join(items))
        ) from error


def _exit_code(report: VerifyReport, fail_on: str, *, forgiving: bool) -> ExitCode:
    if report.summary.crashed:
        return ExitCode.CANNOT_ANSWER
    bad = any(_RANK[finding.severity] >= _RANK[Severity(fail_on)] for finding in report.findings)
    return ExitCode.NO if bad and not forgiving else ExitCode.OK
