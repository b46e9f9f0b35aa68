"""Checkpoints that engines are asked about: the published forms, those in the folder, and sketches of what differs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fp8load
from engines.sketches import SKETCHES
from fp8load.engines.ask import verdicts
from fp8load.engines.gpus import find_gpu
from fp8load.engines.profile import Profile
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Target
from oracle.catalog import FOLDER
from sketch import open_skeleton

FORMS = Path(__file__).parents[2] / "docs" / "formats" / "forms"
TARGETS = (Target(), Target(tp=(2,), gpu=find_gpu("sm75")), Target(gpu=find_gpu("sm86")),
           Target(gpu=find_gpu("sm90")), Target(gpu=find_gpu("sm100")), Target(gpu=find_gpu("sm120")))  # fmt: skip


@cache
def corpus() -> dict[str, Stored]:
    """By name."""
    found = {path.stem: fp8load.open(path).stored for path in sorted(FORMS.glob("*.skel"))}
    found |= {path.name: fp8load.open(path).stored for path in sorted(FOLDER.iterdir()) if path.is_dir()}
    return found | {name: open_skeleton(text).stored for name, text in SKETCHES.items()}


def answers(profile: Profile, codes: tuple[str, ...], names: list[str]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What an engine says of each checkpoint, under each rule: sentences with the tensors they are about."""
    return {
        (code, name): [
            (verdict.text, verdict.tensor)
            for target in TARGETS
            for verdict in verdicts(code, profile, corpus()[name], target)
        ]
        for code in codes
        for name in names
    }
