"""All rows, the score, and the tables of the docs. `python tests/corpus/table.py` prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, as pytest does for tests

from corpus import (
    config,
    diffusion,
    draft,
    encodings,
    files,
    fused,
    hardware,
    ignore,
    kv,
    legal,
    pairing,
    running,
    shapes,
    targets,
    unprofiled,
    values,
)
from corpus.repositories import url_of
from corpus.row import Row, Unbuilt
from fp8load.errors import Severity

SECTIONS: dict[str, tuple[tuple[Row, ...], tuple[Unbuilt, ...]]] = {
    "files, index, cache": (files.ROWS, ()),
    "configuration": (config.ROWS, ()),
    "weights and their scales": (pairing.ROWS, ()),
    "ignore lists, targets": (ignore.ROWS, ()),
    "fused scales": (fused.ROWS, ()),
    "shapes, blocks, splits": (shapes.ROWS, ()),
    "encodings": (encodings.ROWS, ()),
    "values": (values.ROWS, ()),
    "KV cache": (kv.ROWS, ()),
    "draft layers, heads": (draft.ROWS, ()),
    "GPUs, trainers, memory": (hardware.ROWS, ()),
    "image models, conversions": (diffusion.ROWS, ()),
    "what one reader does": (targets.ROWS + legal.ROWS, unprofiled.UNBUILT),
}
ROWS = tuple(sorted((row for rows, _ in SECTIONS.values() for row in rows), key=lambda row: row.number))
UNBUILT = tuple(row for _, unbuilt in SECTIONS.values() for row in unbuilt)
BEYOND = running.BEYOND


def score() -> Iterator[str]:
    """Of the rows that a file can show, how many a rule finds, section by section."""
    yield "| section | rows | found | noted only |"
    yield "| --- | ---: | ---: | ---: |"
    sums = [0, 0, 0]
    for title, (rows, unbuilt) in SECTIONS.items():
        findings = [row.caught for row in rows if row.caught is not None]
        noted = sum(finding.severity is Severity.INFO for finding in findings)
        counts = [len(rows) + len(unbuilt), len(findings), noted]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        yield f"| {title} | {' | '.join(map(str, counts))} |"
    yield f"| all | {' | '.join(map(str, sums))} |"


def found() -> Iterator[str]:
    """Each row that is caught: where it was reported, what is wrong, what is said of it and what was asked for."""
    yield "| row | thread | what is wrong | said | asked with |"
    yield "| ---: | --- | --- | --- | --- |"
    for row in ROWS:
        finding = row.caught
        if finding is not None:
            said = f"{finding.severity} {finding.code}: {finding.message}".replace("|", "\\|")
            yield f"| {row.number} | {_link(row.thread)} | {row.what} | {said} | {row.asked} |"


def missed() -> Iterator[str]:
    """Each row that a file can show and no rule finds, with the reason."""
    yield "| row | thread | what is wrong | why it is not found |"
    yield "| ---: | --- | --- | --- |"
    reasons = {row.number: (row.thread, row.what, row.why) for row in UNBUILT}
    reasons |= {row.number: (row.thread, row.what, row.missed) for row in ROWS if row.caught is None}
    for number, (thread, what, why) in sorted(reasons.items()):
        yield f"| {number} | {_link(thread)} | {what} | {why} |"


def beyond() -> Iterator[str]:
    """Rows of which no file shows anything."""
    yield "| row | thread | what is wrong |"
    yield "| ---: | --- | --- |"
    for row in BEYOND:
        yield f"| {row.number} | {_link(row.thread)} | {row.what} |"


def _link(thread: str) -> str:
    return f"[{thread}]({url_of(thread)})"


def corpus_tables() -> dict[str, str]:
    """The tables of docs/rules/corpus.md by name."""
    made = {"corpus_score": score(), "corpus_found": found(), "corpus_missed": missed(), "corpus_beyond": beyond()}
    return {name: "\n".join(lines) for name, lines in made.items()}


if __name__ == "__main__":
    sys.stdout.write("\n\n".join(corpus_tables().values()) + "\n")
