"""`fp8load doctor`: what this machine offers."""

from __future__ import annotations

from typing import Annotated

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import HUB_ENVIRONMENT
from fp8load_cli.options import command
from fp8load_cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=("text", "json", "md"),
        examples=("fp8load doctor", "fp8load doctor --md", "fp8load doctor --device sm90"),
        codes={1: "torch or a backend is broken: it raises, or computes something wrong"},
        environment={**HUB_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "shown, as torch sees it"},
    )(doctor)


def doctor(
    run: Run,
    *,
    md: Annotated[
        bool, typer.Option("--md", help="Markdown, to be pasted into an issue; same as --format md.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|sm90", help="Ask the backends about this one, here or not.")
    ] = "auto",
) -> ExitCode:
    """Show what this machine offers.

    Python, packages, torch and GPUs, kernel backends, the Hub and its cache. A backend that says yes is run on a small
    product of each kind and compared with float64. Tokens are never shown; nothing is sent.
    """
    if md and run.settings.is_json:
        raise UsageError(Problem(code="USE010", message="--md and --json exclude each other"))
    from fp8load_cli.diagnosis import diagnose
    from fp8load_cli.render import md as markdown
    from fp8load_cli.render import show
    from fp8load_cli.render.views.doctor import doctor_document

    report = diagnose(device)
    document = doctor_document(report)
    if md:
        run.out.report(markdown.draw(document))
    else:
        show(run, report, document)
        run.out.hint("`fp8load doctor --md` is for pasting into an issue")
    return ExitCode.NO if any(check.state == "broken" for check in report.checks) else ExitCode.OK
