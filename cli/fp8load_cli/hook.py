"""What pre-commit runs: the checkpoints that the changed files belong to, each once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fp8load_cli.app import main as program


def sources(files: Iterable[str]) -> Iterator[str]:
    """The checkpoints of these files: a skeleton is one, other files belong to their folder.

    A folder without a safetensors file is none: config.json is a common name.
    """
    found: dict[str, None] = {}
    for name in files:
        path = Path(name)
        if path.suffix == ".skel":
            found[name] = None
        elif any(path.parent.glob("*.safetensors")):
            found[str(path.parent)] = None
    yield from found


def main(words: Sequence[str] | None = None) -> int:
    """`hook [options of verify] FILE...`: the worst exit code. Options come first, each with `=` before its value."""
    given = list(sys.argv[1:] if words is None else words)
    options = [word for word in given if word.startswith("-")]
    codes = [program(["verify", *options, source]) for source in sources(set(given) - set(options))]
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
