"""F8L006: the second copy is left out."""

import re
from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import Omit


def actions(context: Context, problem: Problem) -> Iterator[Omit]:
    """Every file of the copy: those whose names differ in their numbers only."""
    family = re.sub(r"\d+", "", problem.file)
    for file in context.checkpoint.index.strays:
        if re.sub(r"\d+", "", file) == family:
            yield Omit(file)


REPAIR = Repair(title="leaves the second copy out", actions=actions, only_if="which copy is meant is yours to say")
