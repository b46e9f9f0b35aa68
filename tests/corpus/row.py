"""A row of the corpus: a fault that somebody met, rebuilt as a small checkpoint, with a twin that is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from fp8load.checkpoint import Checkpoint, Level
from fp8load.errors import Severity
from fp8load.index.build import build_index
from fp8load.report import Finding
from fp8load.source.local import LocalSource
from rules.examples import checkpoint_of
from sketch import open_skeleton

Files = Mapping[str, bytes | int | None]

LEVEL_OF: dict[str, Level] = {
    "J": "headers",
    "H": "headers",
    "P": "headers",
    "S": "scales",
    "W": "weights",
    "B": "headers",
}
"""What is read to see a fault: JSON, headers, headers and what an engine does, scales, weights, whole files."""

NOTED = frozenset((
    "F8L007", "F8L008", "F8L203", "F8L206", "F8L208", "F8L209", "F8L305", "F8L307", "F8L308", "F8L401",
    "F8L402", "F8L403", "F8L405", "F8L503", "F8L505", "F8L601", "F8L602", "F8L603", "F8L606", "F8L704",
    "F8L707", "F8L902", "F8L904", "F8L911", "F8L912", "F8L921", "F8L922",
))  # fmt: skip
"""Codes of what is legal and wrong for one reader only: without an engine it is noted, not warned of."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault.

    number    in the corpus; the rows of each file follow each other
    thread    where it was reported: a repository's short name (`corpus.repositories`), "#", a number
    what      what is wrong with the checkpoint, in one sentence
    reads     the least that shows it, a key of `LEVEL_OF`
    twin      a skeleton that is right
    changes   what makes it wrong: replacements of text, each of which occurs
    adds      what makes it wrong: further lines
    files     what makes it wrong: changes of the files (see `fp8load.rules.base.Example`)
    values    what makes it wrong: numbers that scales or weights hold
    cached    of both: files that lie in the Hub's cache, and the digests by which their blobs are called
    twin_files, twin_values     the same, of both
    engine, arch, tp            what is asked for, of both
    twin_tp, twin_engine, twin_arch      of the twin, where what is wrong is the choice of a reader or a GPU
    codes     of which one is found, the most telling first
    subject   what the finding names: a tensor, a module, a file, a key
    noted     why a note is enough, where the code is none of `NOTED`
    missed    why no rule finds it; then a test sees to it that none does
    """

    number: int
    thread: str
    what: str
    twin: str
    codes: tuple[str, ...]
    subject: str
    reads: str = "H"
    changes: tuple[tuple[str, str], ...] = ()
    adds: str = ""
    files: Files = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    cached: Mapping[str, str] = field(default_factory=dict)
    twin_files: Files = field(default_factory=dict)
    twin_values: Mapping[str, float] = field(default_factory=dict)
    tp: tuple[int, ...] | None = None
    twin_tp: tuple[int, ...] | None = None
    engine: str | None = None
    arch: str | None = None
    twin_engine: str | None = None
    twin_arch: str | None = None
    noted: str = ""
    missed: str = ""

    @property
    def faulty(self) -> str:
        """The skeleton of what is wrong. Raises `ValueError` for a replacement of what does not occur."""
        text = self.twin
        for old, new in self.changes:
            if old not in text:
                raise ValueError(f"row {self.number}: {old!r} does not occur")
            text = text.replace(old, new)
        return text + self.adds

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong with the checkpoint: the fault is one reader's."""
        return not (self.changes or self.adds or self.files or self.values)

    @property
    def asked(self) -> str:
        """The options that were used, as the command has them."""
        level = LEVEL_OF[self.reads]
        sizes = None if self.tp is None else ",".join(map(str, self.tp))
        options = {
            "level": None if level == "headers" else level,
            "engine": self.engine,
            "arch": self.arch,
            "tp": sizes,
        }
        texts = [f"`--{name} {value}`" for name, value in options.items() if value is not None]
        return " ".join([*texts, "`--hash`"] if self.reads == "B" else texts)

    def of_fault(self) -> list[Finding]:
        """What is found of the checkpoint that is wrong."""
        ckpt = _open(self.faulty, {**self.twin_values, **self.values}, {**self.twin_files, **self.files})
        return self._found(ckpt, self.tp, self.engine, self.arch)

    def of_twin(self) -> list[Finding]:
        """What is found of the one that is right."""
        ckpt = _open(self.twin, self.twin_values, self.twin_files)
        return self._found(ckpt, self.twin_tp or self.tp, self.twin_engine or self.engine, self.twin_arch or self.arch)

    def _found(
        self, ckpt: Checkpoint, tp: tuple[int, ...] | None, engine: str | None, arch: str | None
    ) -> list[Finding]:
        if not self.cached:
            return self._findings(ckpt, tp, engine, arch)
        with TemporaryDirectory() as folder:
            return self._findings(_in_cache(ckpt, Path(folder), self.cached), tp, engine, arch)

    def _findings(
        self, ckpt: Checkpoint, tp: tuple[int, ...] | None, engine: str | None, arch: str | None
    ) -> list[Finding]:
        report = ckpt.verify(LEVEL_OF[self.reads], tp=tp, engine=engine, arch=arch, hash=self.reads == "B")
        if report.summary.crashed:
            raise AssertionError(f"row {self.number}: {report.summary.crashed} crashed")
        return report.findings

    @cached_property
    def caught(self) -> Finding | None:
        """The finding that says it: the loudest of the codes, else the first, severe enough, and naming the subject."""
        order = {code: at for at, code in enumerate(self.codes)}
        said = [finding for finding in self.of_fault() if finding.code in order and self._says(finding)]
        loudness = list(Severity)
        return min(said, key=lambda found: (loudness.index(found.severity), order[found.code]), default=None)

    def _says(self, finding: Finding) -> bool:
        may_be_noted = finding.code in NOTED and self.engine is None and self.arch is None
        is_loud = finding.severity is not Severity.INFO or may_be_noted or bool(self.noted)
        return is_loud and self.subject in text_of(finding)


@dataclass(frozen=True, kw_only=True)
class Unbuilt:
    """A row whose checkpoint is right as it is: only a reader's profile could say it, and none does."""

    number: int
    thread: str
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """A row that no file can show: what is wrong is in the program that reads it."""

    number: int
    thread: str
    what: str


def _open(skeleton: str, values: Mapping[str, float], files: Files) -> Checkpoint:
    # What a file says inside itself stands in a skeleton only; such rows change neither values nor files.
    return open_skeleton(skeleton) if "\ninside " in f"\n{skeleton}" else checkpoint_of(skeleton, values, files)


def _in_cache(ckpt: Checkpoint, folder: Path, digests: Mapping[str, str]) -> Checkpoint:
    """The same files as huggingface_hub's cache has them: links to blobs that are called by their digests."""
    snapshot, blobs = folder / "snapshots" / "main", folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in ckpt.source.list():
        digest = digests.get(file)
        content = ckpt.source.read(file, 0, ckpt.source.size(file))
        if digest is None:
            (snapshot / file).write_bytes(content)
        else:
            (blobs / digest).write_bytes(content)
            (snapshot / file).symlink_to(Path("..", "..", "blobs", digest))
    source = LocalSource(snapshot)
    return Checkpoint(source, build_index(source))


def text_of(finding: Finding) -> str:
    """Everything that a finding says."""
    said = [finding.pattern, *finding.modules, *finding.tensors, finding.file, *finding.files]
    return "\n".join([*said, finding.message, finding.expected, finding.got, finding.hint])
