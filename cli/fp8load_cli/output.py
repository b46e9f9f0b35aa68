"""The only module that prints. stdout is the answer, stderr is the conversation."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from fp8load.errors import Fp8LoadError, Problem, UsageError
from fp8load_cli.render.document import Span, line
from fp8load_cli.render.text import Style, draw
from fp8load_cli.settings import Settings

_PLAIN = str.maketrans({"·": "-", "×": "x", "…": "...", "—": "-", "–": "-", "é": "e"})


class Output:
    """Writes the report to stdout or to a file, and hints, warnings and errors to stderr."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def style(self) -> Style:
        """How text on stdout (or in the file) is drawn."""
        if self.settings.output is not None:
            return Style(colour=self.settings.colour == "always")
        return _style(sys.stdout, self.settings.colour)

    @property
    def unicode(self) -> bool:
        """Whether drawings may use block characters: on a terminal that can show them, never in a pipe or a file."""
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        return self.settings.output is None and _is_terminal(sys.stdout) and encoding.startswith("utf")

    def report(self, text: str) -> None:
        """The answer. Under -o it goes to the file, which appears whole or not at all."""
        if self.settings.output is not None:
            write_file(self.settings.output, text)
        else:
            _write(sys.stdout, text)

    def hint(self, text: str) -> None:
        """A next step, for people only: silent in a pipe and under -q."""
        if not self.settings.quiet and _is_terminal(sys.stderr):
            self._say("dim", "hint", text)

    def note(self, text: str) -> None:
        """What the user should know although it is not the answer."""
        if not self.settings.quiet:
            _write(sys.stderr, text + "\n")

    def warning(self, text: str) -> None:
        """A warning about what was asked for, never about a checkpoint."""
        if not self.settings.quiet:
            self._say("warning", "warning", text)

    def error(self, problem: Problem) -> None:
        """A question that could not be answered. Under -qq the exit code says it alone."""
        if self.settings.quiet < 2:
            from fp8load_cli.render.views.problem import problem_document

            _write(sys.stderr, draw(problem_document(problem), _style(sys.stderr, self.settings.colour)))

    def _say(self, style: str, label: str, text: str) -> None:
        drawn = draw([line(Span(f"{label}:", style), f" {text}", hang=2)], _style(sys.stderr, self.settings.colour))
        _write(sys.stderr, drawn)


def write_file(path: Path, text: str) -> None:
    """Write `path` through a file beside it, so that an interruption leaves nothing behind."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(Problem(code="USE011", message="the output file cannot be written", file=str(path),
                                 expected="a file in a folder that exists and may be written to",
                                 got=error.strerror or str(error))) from error  # fmt: skip


def say(text: str) -> None:
    """A line on stderr before any settings are known."""
    _write(sys.stderr, text + "\n")


def answer(text: str) -> None:
    """A line on stdout before any settings are known."""
    _write(sys.stdout, text + "\n")


def close_stdout() -> None:
    """The reader of a pipe has gone: nothing more is written, and the interpreter's own flush stays silent."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


class StdoutError(Fp8LoadError):
    """The answer could not be written: the disk behind `> file` is full, or the like."""


def flush() -> None:
    """Hand everything to the reader; raises BrokenPipeError where it has gone, StdoutError where it cannot be."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def unwritten(error: OSError) -> StdoutError:
    """The error for what the operating system answered."""
    return StdoutError(Problem(
        code="USE011", message="the answer could not be written to stdout", got=error.strerror or str(error),
        hint="free some space, or give a file elsewhere with -o",
    ))  # fmt: skip


def progress_stream(settings: Settings) -> TextIO | None:
    """Where progress may be drawn: stderr, if it is a terminal and nothing else is written to it."""
    wanted = settings.progress and not settings.quiet and not settings.verbose
    return sys.stderr if wanted and _is_terminal(sys.stderr) else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _style(stream: TextIO, colour: str) -> Style:
    """Colour by --color, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal; width for terminals only."""
    environ = os.environ
    if colour == "auto":
        if environ.get("NO_COLOR"):
            coloured = False
        elif environ.get("FORCE_COLOR"):
            coloured = environ["FORCE_COLOR"] != "0"
        else:
            coloured = _is_terminal(stream)
    else:
        coloured = colour == "always"
    width = shutil.get_terminal_size((100, 24)).columns if stream.isatty() else None
    return Style(width=width, colour=coloured)


def _write(stream: TextIO, text: str) -> None:
    """Write what the stream's encoding can say; the rest in ASCII, or as escapes."""
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        if stream is sys.stdout:
            raise unwritten(error) from error
