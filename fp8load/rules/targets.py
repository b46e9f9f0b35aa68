"""How rules ask engines: what those that were named say, or a note where engines differ and none was named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fp8load.engines.ask import of_any, of_named
from fp8load.engines.verdict import Target
from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context

Check = Callable[[Context], Iterator[Problem]]


def target_of(context: Context) -> Target:
    """What engines are asked about."""
    return Target(tp=context.tp, gpu=context.gpu)


def engines(code: str) -> Check:
    """A check that asks the engines that were named; silent without."""
    return lambda context: of_named(code, context.engines, context.checkpoint.stored, target_of(context))


def all_engines(code: str) -> Check:
    """The same, and without a named engine a note of what engines read in different ways."""

    def check(context: Context) -> Iterator[Problem]:
        if context.engines:
            yield from engines(code)(context)
        else:
            yield from of_any(code, context.checkpoint.stored, target_of(context))

    return check


def both(check: Check, asking: Check) -> Check:
    """What a check finds by itself and what engines say. Notes about engines in general give way to those named."""

    def run(context: Context) -> Iterator[Problem]:
        for problem in check(context):
            if not context.engines or problem.severity is not Severity.INFO:
                yield problem
        yield from asking(context)

    return run
