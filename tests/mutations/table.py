"""Every change by its name, what `verify` says of each over all clean checkpoints, and the table of the docs.

`python tests/mutations/table.py --write` runs all of them and records the least that had to be read until something was
found: headers, scales or weights, or nothing. Tests compare with the record, so that it only changes on purpose.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, as pytest does for tests

from fp8load.checkpoint import Level
from fp8load.errors import Severity, SourceError
from fp8load.rules.base import LEVELS
from fp8load.rules.registry import rules
from fp8load.scheme import Role
from mutations import changes as c
from mutations import configs
from mutations.copies import Copy, clean
from oracle.catalog import FOLDER

RECORD = Path(__file__).with_name("caught.json")
MISSED = "nothing"

CHANGES: dict[str, c.Change] = {
    "a weight is gone": c.dropped(Role.WEIGHT),
    "a weight scale is gone": c.dropped(Role.WEIGHT_SCALE),
    "an input scale is gone": c.dropped(Role.INPUT_SCALE),
    "a global scale is gone": c.dropped(Role.WEIGHT_GLOBAL_SCALE),
    "a norm or the embedding is gone": c.drop_norm,
    "a weight has another name": c.renamed(Role.WEIGHT, "wight"),
    "a weight scale has another name": c.renamed(Role.WEIGHT_SCALE, "scales"),
    "an input scale has another name": c.renamed(Role.INPUT_SCALE, "act_scale"),
    "a weight is one long row": c.flattened(Role.WEIGHT),
    "a weight scale is one long row": c.flattened(Role.WEIGHT_SCALE),
    "a weight is transposed": c.transposed(Role.WEIGHT),
    "a weight scale is transposed": c.transposed(Role.WEIGHT_SCALE),
    "a weight scale has another dtype than its siblings": c.retyped_scale,
    "a weight's header says E5M2": c.relabelled_weight,
    "a weight is BF16, its scale stayed": c.dequantized_weight,
    "two weights are swapped": c.swapped(Role.WEIGHT),
    "two weight scales are swapped": c.swapped(Role.WEIGHT_SCALE),
    "two global scales are swapped": c.swapped(Role.WEIGHT_GLOBAL_SCALE),
    "a weight scale is of an earlier weight": c.stale_scale,
    "a weight scale is doubled": c.rescaled(Role.WEIGHT_SCALE, lambda values: values * 2),
    "a weight scale is 1/448 of itself": c.rescaled(Role.WEIGHT_SCALE, lambda values: values / 448),
    "a weight scale is its reciprocal": c.rescaled(Role.WEIGHT_SCALE, lambda values: 1 / values),
    "a global scale is its reciprocal": c.rescaled(Role.WEIGHT_GLOBAL_SCALE, lambda values: 1 / values),
    "a weight scale is all ones": c.rescaled(Role.WEIGHT_SCALE, np.ones_like),
    "a weight scale has a NaN": c.rescaled(Role.WEIGHT_SCALE, c.first_is(float("nan"))),
    "a weight scale has a zero": c.rescaled(Role.WEIGHT_SCALE, c.first_is(0)),
    "a weight scale has a negative number": c.rescaled(Role.WEIGHT_SCALE, c.first_is(-1)),
    "exponents of a weight scale became numbers": c.exponents_as_numbers,
    "a weight is all zeros": c.filled(0, whole=True),
    "a weight has a NaN": c.filled(0x7F, whole=False),
    "a tensor is stored twice": c.stored_twice,
    "all tensors are stored twice": c.two_copies,
    "the file is cut off": c.truncated,
    "the file is a git-LFS pointer": c.pointer,
    "the index lists what is not there": c.listed_and_absent,
    "the index does not list a weight": c.stored_and_unlisted,
    "the configuration is gone": configs.without_configuration,
    "the method is unknown": configs.unknown_method,
    "the ignore list is empty": configs.ignore_removed,
    "the ignore list names a quantized module": configs.ignore_widened,
    "the ignore list names nothing": configs.ignore_of_nothing,
    "the block size is another": configs.other_block_size,
    "two configurations disagree": configs.two_that_disagree,
    "the configuration has a layer more": configs.one_layer_more,
    "the configuration's MLP is twice as wide": configs.wider,
    "activations are said to be static": configs.static_inputs,
}

Said = frozenset[tuple[str, str]]


def names() -> list[str]:
    """Checkpoints that are clean: of which nothing is said."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and not said_of(path.name))


@cache
def said_of(name: str) -> Said:
    """What is said of a checkpoint as it is."""
    return _said(clean(name))


def _said(copy: Copy, level: Level = "weights") -> Said:
    """Code and subject of every error and warning."""
    report = copy.open().verify(level=level)
    return frozenset(
        (finding.code, finding.pattern) for finding in report.findings if finding.severity is not Severity.INFO
    )


def caught(name: str, change: str) -> str | None:
    """The least level at which a rule finds the change; `MISSED`; None where the change does not apply."""
    seed = zlib.crc32(f"{name} {change}".encode())
    copy = CHANGES[change](clean(name), np.random.default_rng(seed))
    if copy is None:
        return None
    try:
        new = _said(copy) - said_of(name)
    except SourceError:  # the file ends while its scales are read: no answer is an answer too, with its reason
        return LEVELS[0]
    level_of = {rule.code: rule.level for rule in rules()}
    levels = {level_of.get(code, LEVELS[0]) for code, _ in new}
    for level in LEVELS:  # a rule of one level may say more where more is read
        if level in levels and _said(copy, level) - said_of(name):
            return level
    return LEVELS[-1] if new else MISSED


def of_checkpoint(name: str) -> dict[str, str]:
    """Each change that applies to a checkpoint, and the level at which it is found."""
    found = {change: caught(name, change) for change in CHANGES}
    return {change: level for change, level in found.items() if level is not None}


def recorded() -> dict[str, dict[str, str]]:
    """The record: checkpoint -> change -> level."""
    document: dict[str, dict[str, str]] = json.loads(RECORD.read_text())
    return document


def rows() -> Iterator[str]:
    """The table: for each change, to how many checkpoints it applies, and the share found at each level."""
    yield "| change | checkpoints | headers | scales | weights |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    document = recorded()
    for change in CHANGES:
        counts = Counter(found[change] for found in document.values() if change in found)
        total, so_far = sum(counts.values()), 0
        shares = []
        for level in LEVELS:
            so_far += counts[level]
            shares.append(f"{so_far / total:.0%}" if total else "")
        yield f"| {change} | {total} | {' | '.join(shares)} |"


def main() -> None:
    """Run everything and write the record."""
    listed = names()
    with ProcessPoolExecutor(2) as pool:
        document = dict(zip(listed, pool.map(of_checkpoint, listed), strict=True))
    RECORD.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        main()
    sys.stdout.write("\n".join(rows()) + "\n")
