"""Several actions on one tensor: what they make of it together, or why they cannot both be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fp8load.errors import Problem, UsageError
from fp8load.writing.actions import Action, Convert, Remake


def in_turn(found: Sequence[Convert], remade: Remake | None) -> list[Convert]:
    """What is done to a tensor's elements, one after the other: all that keeps its dtype, then what changes it. Each
    expects the stored dtype, so one that only changes the dtype is left out where the tensor gets another one anyway.

    Raises `UsageError` USE023 for two that each give every number another value, and for one that would have to mend
    elements that are made anew in another dtype.
    """
    every = list({change.what: change for change in found if change.effect == "every"}.values())
    if len(every) > 1:
        raise _refused(every[0].meta.name, every[0].what, every[1].what)
    if remade is not None and remade.dtype is not remade.meta.dtype:
        lost = next((change for change in found if change.effect != "same"), None)
        if lost is not None:
            raise _refused(remade.meta.name, remade.what, lost.what)
        return []
    order = sorted(found, key=lambda change: change.effect == "every")  # what is wrong is known by its stored numbers
    keeping = [change for change in order if change.dtype is change.meta.dtype]
    changing = [change for change in order if change.dtype is not change.meta.dtype]
    return keeping + changing[-1:]


def refuse_two_ways(actions: Iterable[Action]) -> None:
    """Raise `UsageError` where a tensor is made anew in two ways, each of which counts on the scale that it makes
    itself, or where one is made with numbers that another action changes."""
    changes: dict[str, list[Convert | Remake]] = {}
    for action in actions:
        if isinstance(action, Remake) or (isinstance(action, Convert) and action.effect != "same"):
            changes.setdefault(action.meta.name, []).append(action)
    for name, found in changes.items():
        remade = list({change.what: change for change in found if isinstance(change, Remake)}.values())
        if len(remade) > 1:
            raise _refused(name, remade[0].what, remade[1].what)
        for used in remade[0].uses if remade else ():
            if used in changes:
                raise _refused(name, remade[0].what, f"{used} {changes[used][0].what}")


def _refused(name: str, one: str, other: str) -> UsageError:
    return UsageError(Problem(
        code="USE023", message="two repairs of a tensor cannot both be done", tensor=name, expected="one of them",
        got=" and ".join(sorted((one, other))),
        hint="name one, and repair the copy that it writes once more with the other",
    ))  # fmt: skip
