"""Where a finding lies, for programs: a path in the repository that is checked out, and a fingerprint that stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fp8load.report import Finding, VerifyReport

WITHOUT_FILE = "config.json"
"""Where a finding is shown that no file is at fault for: viewers drop one without a path."""


def path_of(report: VerifyReport, finding: Finding) -> str:
    """The finding's file as a path with forward slashes, from the current folder where the checkpoint lies in it.

    A place within a file ("config.json quantization_config") is the file.
    """
    file = finding.file.partition(" ")[0] if ".json " in finding.file else finding.file
    file = file or WITHOUT_FILE
    if report.source.kind != "local":
        return file
    folder = Path(report.source.id).absolute()
    folder = folder.parent if folder.is_file() else folder
    return (folder / file).relative_to(Path.cwd()).as_posix() if folder.is_relative_to(Path.cwd()) else file


def fingerprint(finding: Finding) -> str:
    """The same for the same finding in another run, whatever machine and folder it was made in."""
    identity = "\0".join((finding.code, finding.file, finding.pattern, finding.message))
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
