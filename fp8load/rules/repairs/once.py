"""What repairs of many faults ask again and again of one checkpoint: answered once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from fp8load.rules.base import Context

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_Answer = TypeVar("_Answer")


def once(question: Callable[[Context], _Answer]) -> Callable[[Context], _Answer]:
    """A question about a checkpoint whose answer is kept for as long as the checkpoint is."""
    answers: WeakKeyDictionary[Checkpoint, _Answer] = WeakKeyDictionary()

    @wraps(question)
    def ask(context: Context) -> _Answer:
        checkpoint = context.checkpoint
        if checkpoint not in answers:
            answers[checkpoint] = question(context)
        return answers[checkpoint]

    return ask
