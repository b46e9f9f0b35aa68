"""Executable pages: what is in a page's code blocks is run, and what it shows is compared.

    ```python            run; the blocks of a page share their names
    ```python file=a.py  written to a file first, importable by the blocks that follow
    ```console           lines that begin with "$ " are commands, run in the repository; the rest is their output
    ```toml plugin       an installed package's entry points: made visible to everything that follows
    <!-- table NAME -->  up to the next comment: a table of `docs.forms` or of `docs.rule_page`

`python tests/docs/pages.py --write` puts the real output into every page; the change is then reviewed as a diff.
Lines of output that differ from run to run are matched by "..." at the place that differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, as pytest does for tests

from corpus.table import corpus_tables
from docs.forms import tables
from docs.rule_page import rule_tables
from mutations.table import rows as mutation_rows
from under_test import pythonpath

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


_TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every page of docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass
class Runner:
    """Runs the blocks of one page."""

    work: Path

    def environment(self) -> dict[str, str]:
        """The user's, without colour and at a fixed width; the page's files are importable."""
        keep = {
            key: value for key, value in os.environ.items() if not key.startswith(("FP8LOAD_", "COLUMNS", "FORCE_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{keep.get('PATH', '')}"
        return {**keep, "PATH": path, "PYTHONPATH": pythonpath(self.work), "NO_COLOR": "1", "COLUMNS": "100"}

    def console(self, text: str) -> str:
        """The block with the output that its commands really have."""
        lines = []
        for line in text.splitlines():
            if line.startswith("$ "):
                done = subprocess.run(
                    ["bash", "-c", line[2:]],
                    cwd=ROOT,
                    env=self.environment(),
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=300,
                    check=False,
                )
                lines += [line, *done.stdout.splitlines()]
                if done.returncode:
                    lines.append(f"exit {done.returncode}")
        return "\n".join(part.rstrip() for part in lines) + "\n"

    def python(self, blocks: list[str]) -> None:
        """All Python blocks of a page, in one process. Raises with what it printed."""
        script = self.work / "page_blocks.py"
        script.write_text("\n".join(blocks))
        done = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=self.environment(), text=True,
                              capture_output=True, timeout=300, check=False)  # fmt: skip
        if done.returncode:
            raise AssertionError(done.stderr)

    def plugin(self, text: str) -> None:
        """An installed distribution with these entry points, as importlib.metadata sees one."""
        info = self.work / "fp8load_example-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fp8load-example\nVersion: 1.0\n")
        groups = tomllib.loads(text)["project"]["entry-points"]
        lines = [line for group, points in groups.items()
                 for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))]  # fmt: skip
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def executed(page: Path) -> str:
    """The page's text with real output in its console blocks. Raises when a Python block fails."""
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        python: list[str] = []

        def replace(match: re.Match[str]) -> str:
            language, options, body = match.groups()
            options = options.strip()
            if language == "console":
                return f"```console{match[2]}\n{runner.console(body)}```"
            if language == "toml" and options == "plugin":
                runner.plugin(body)
            elif language == "python" and options.startswith("file="):
                (runner.work / options.removeprefix("file=")).write_text(body)
            elif language == "python":
                python.append(body)
            return match[0]

        text = _BLOCK.sub(replace, text)
        if _TABLE.search(text):
            made = {**tables(), **rule_tables(), **corpus_tables(), "mutations": "\n".join(mutation_rows())}
            text = _TABLE.sub(lambda match: match[1] + made[match[2]], text)
        if python:
            runner.python(python)
    return text


def same(written: str, real: str) -> bool:
    """Whether a page's line shows what really came; "..." stands for anything."""
    pattern = ".*".join(re.escape(part) for part in written.rstrip().split("..."))
    return re.fullmatch(pattern, real.rstrip()) is not None


if __name__ == "__main__":
    for path in pages():
        before = path.read_text().splitlines()
        after = executed(path).splitlines()
        if len(before) == len(after):  # keep lines that already match through "..."
            after = [old if same(old, new) else new for old, new in zip(before, after, strict=True)]
        if "--write" in sys.argv:
            path.write_text("\n".join(after) + "\n")
        print(path.relative_to(ROOT), "as it is" if before == after else "changed")
