"""`fp8load schema`: the JSON Schema of each report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fp8load.errors import ExitCode, Problem, UsageError
from fp8load_cli.help import ENVIRONMENT
from fp8load_cli.options import command
from fp8load_cli.run import Run

if TYPE_CHECKING:
    from fp8load.report import Report

NAMES = ("inspect", "verify", "plan", "plans", "contract", "error", "rule", "doctor", "bench-gemm", "bench-load")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        formats=("json",),
        examples=("fp8load schema verify", "fp8load schema error", "fp8load schema > all.json"),
        codes={1: "not used", 2: "usage: no such report"},
        environment=ENVIRONMENT,
    )(schema)


def schema(
    run: Run,
    report: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", help=f"{', '.join(NAMES)}; without it, all of them.", show_default=False),
    ] = None,
) -> ExitCode:
    """Print the JSON Schema of a report.

    `plans` is what plan --rank all prints, `contract` what inspect --contract prints, `error` what --json prints when a
    question could not be answered.
    """
    if report is not None and report not in NAMES:
        raise UsageError(Problem(code="USE010", message="no such report", expected=", ".join(NAMES), got=report))
    document = schema_of(report) if report is not None else {name: schema_of(name) for name in NAMES}
    run.out.report(json.dumps(document, indent=2) + "\n")
    return ExitCode.OK


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of one report."""
    return _models()[name].model_json_schema(by_alias=True, mode="serialization")


def _models() -> dict[str, type[Report]]:
    from fp8load.contract import Contract
    from fp8load.report import ErrorReport, InspectReport, PlanReport, VerifyReport
    from fp8load_cli.reports import BenchGemmReport, BenchLoadReport, DoctorReport, PlansReport, RuleReport

    return {
        "inspect": InspectReport, "verify": VerifyReport, "plan": PlanReport, "plans": PlansReport,
        "contract": Contract, "error": ErrorReport, "rule": RuleReport, "doctor": DoctorReport,
        "bench-gemm": BenchGemmReport, "bench-load": BenchLoadReport,
    }  # fmt: skip
