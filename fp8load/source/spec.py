"""What the user typed as a SOURCE, parsed once for every command and for `fp8load.open`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, assert_never
from urllib.parse import unquote, urlsplit

from fp8load.errors import AccessError, NotFoundError, Problem, UsageError
from fp8load.source.base import Source

_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_REPO_PART}/{_REPO_PART}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OTHER_KINDS = ("datasets", "spaces", "kernels", "buckets")
FORMS = "a folder, file.safetensors, x.skel, org/repo, org/repo@rev, hf://org/repo@rev/path or a huggingface.co URL"


class SourceKind(StrEnum):
    """The kinds of source that text can name."""

    FOLDER = "folder"
    FILE = "file"
    SKELETON = "skeleton"
    STDIN = "stdin"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """A parsed SOURCE.

    text          what was typed
    path          for folder, file and skeleton
    repo_id, revision, subpath   for the Hub; `subpath` is a folder or one file inside the repository
    shadows_repo  an existing path was chosen although the text could also name a repository
    """

    kind: SourceKind
    text: str
    path: Path | None = None
    repo_id: str = ""
    revision: str | None = None
    subpath: str = ""
    shadows_repo: bool = False


def parse_source(source: str | Path, *, stdin: bool = False) -> SourceSpec:
    """What `source` names. An existing path wins over a repository of the same name; a `Path` is always a path.

    `-` (a skeleton on standard input) is understood only with `stdin=True`, which the command line sets.
    Raises UsageError USE001 (unsupported scheme) or USE002 (not a checkpoint file), NotFoundError SRC001.
    """
    if isinstance(source, Path):
        return _local(source.expanduser(), str(source)) or _nothing(str(source), is_path=True)
    text = source.strip()
    if text == "-" and stdin:
        return SourceSpec(kind=SourceKind.STDIN, text=text)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return _url(text, scheme[1].lower())
    repo_id, at, revision = text.partition("@")
    is_repo = _REPO_ID.fullmatch(repo_id) is not None and bool(revision) == bool(at)
    looks_like_file = text.endswith((".safetensors", ".skel"))
    spec = _local(Path(text).expanduser(), text, shadows_repo=is_repo and not looks_like_file) if text else None
    if spec is not None:
        return spec
    if not is_repo or looks_like_file:
        _nothing(text, is_path=text.startswith((".", "/", "~")) or looks_like_file)
    return SourceSpec(kind=SourceKind.HUB, text=text, repo_id=repo_id, revision=revision or None)


def _local(path: Path, text: str, *, shadows_repo: bool = False) -> SourceSpec | None:
    """The spec of a path that exists, None where there is none."""
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise AccessError(Problem(code="SRC003", message="the path cannot be looked at", file=text,
                                  got=error.strerror or str(error),
                                  hint="see who may with `ls -l`")) from error  # fmt: skip
    if not exists:
        return None
    if is_folder:
        kind = SourceKind.FOLDER
    elif path.suffix == ".safetensors":
        kind = SourceKind.FILE
    elif path.suffix == ".skel":
        kind = SourceKind.SKELETON
    else:
        hint = f"give its folder: {path.parent}" if path.suffix == ".json" else ""
        raise UsageError(Problem(code="USE002", message="this file is not a checkpoint", file=text, expected=FORMS,
                                 got=f"a file that ends in {path.suffix or path.name!r}", hint=hint))  # fmt: skip
    return SourceSpec(kind=kind, text=text, path=path, shadows_repo=shadows_repo)


def _nothing(text: str, *, is_path: bool) -> NoReturn:
    """Raises: the text names nothing that exists here, and cannot be a repository."""
    if is_path:
        raise NotFoundError(Problem(code="SRC001", message="no such file or folder", file=text, expected=FORMS,
                                    hint="check the path; relative paths start at the current folder"))  # fmt: skip
    raise NotFoundError(Problem(
        code="SRC001", message="this is neither an existing path nor a repository on the Hub", file=text or "''",
        expected=FORMS, hint="a repository has an owner: org/repo, org/repo@revision"))  # fmt: skip


def _url(text: str, scheme: str) -> SourceSpec:
    if scheme == "hf":
        return _hf_uri(text)
    if scheme in ("http", "https"):
        return _web_url(text)
    raise UsageError(Problem(
        code="USE001", message=f"{scheme}:// is not supported yet: remote filesystems need fsspec", file=text,
        expected=FORMS, hint="copy the checkpoint to a local folder, or mount it"))  # fmt: skip


def _hub(text: str, repo_id: str, revision: str | None, subpath: str) -> SourceSpec:
    if repo_id.partition("/")[0] in _OTHER_KINDS or not _REPO_ID.fullmatch(repo_id):
        raise UsageError(Problem(code="USE002", message="this does not name a model repository", file=text,
                                 expected="hf://org/repo[@rev][/path]", got=repo_id or "nothing"))  # fmt: skip
    if any(part in ("", ".", "..") for part in subpath.split("/")) and subpath:
        raise UsageError(Problem(code="USE002", message="the path inside the repository is not plain", file=text,
                                 expected="folder/file", got=subpath))  # fmt: skip
    return SourceSpec(kind=SourceKind.HUB, text=text, repo_id=repo_id, revision=revision, subpath=subpath)


def _split_revision(rest: str) -> tuple[str, str]:
    """`rev/path` -> rev, path. `refs/pr/3` and `refs/convert/x` are one revision; %2F in others stands for a slash."""
    special = re.match(r"refs/(?:pr|convert)/[^/]+", rest)
    revision = special[0] if special else rest.partition("/")[0]
    return unquote(revision), rest[len(revision) :].strip("/")


def _hf_uri(text: str) -> SourceSpec:
    rest = text[len("hf://") :].strip("/").removeprefix("models/")
    owner, _, tail = rest.partition("/")
    name, at, after = tail.partition("@")
    if at and "/" not in name:
        revision, subpath = _split_revision(after)
        return _hub(text, f"{owner}/{name}", revision or None, subpath)
    name, _, subpath = tail.partition("/")
    return _hub(text, f"{owner}/{name}" if name else owner, None, subpath)


def _web_url(text: str) -> SourceSpec:
    """A pasted page address of the Hub, or of the host in HF_ENDPOINT: /org/repo[/tree|blob|resolve/rev[/path]]."""
    from huggingface_hub import constants

    address, endpoint = urlsplit(text), urlsplit(constants.ENDPOINT)
    path = address.path
    if address.netloc == endpoint.netloc and path.startswith(endpoint.path):
        path = path[len(endpoint.path) :]
    elif address.hostname not in ("huggingface.co", "www.huggingface.co", "hf.co"):
        raise UsageError(Problem(
            code="USE001", message="this URL is not a page of the Hub", file=text,
            expected=f"https://huggingface.co/org/repo[/tree/rev] (HF_ENDPOINT is {constants.ENDPOINT})",
            got=address.netloc, hint="set HF_ENDPOINT for a mirror; copy from other servers to a folder"))  # fmt: skip
    owner, name, verb, rest = [*path.strip("/").split("/", 3), "", "", ""][:4]
    if verb in ("tree", "blob", "resolve", "raw"):
        revision, subpath = _split_revision(rest)
        return _hub(text, f"{owner}/{name}", revision or None, unquote(subpath))
    if verb:
        raise UsageError(Problem(code="USE002", message="this page of the Hub is not a file listing", file=text,
                                 expected="/org/repo, /org/repo/tree/rev", got=address.path))  # fmt: skip
    return _hub(text, f"{owner}/{name}", None, "")


def open_source(source: SourceSpec | str | Path) -> Source:
    """Open what the spec names. For the Hub this resolves the revision: one request, or none when offline."""
    spec = source if isinstance(source, SourceSpec) else parse_source(source)
    match spec.kind:
        case SourceKind.FOLDER | SourceKind.FILE:
            from fp8load.source.local import LocalSource

            path = _path_of(spec)
            if spec.kind is SourceKind.FOLDER:
                return LocalSource(path, id=spec.text)
            return LocalSource(path.parent, only=path.name, id=spec.text)
        case SourceKind.SKELETON | SourceKind.STDIN:
            from fp8load.source.skeleton import SkeletonSource

            if spec.kind is SourceKind.STDIN:
                return SkeletonSource.from_stdin()
            return SkeletonSource.from_file(_path_of(spec), id=spec.text)
        case SourceKind.HUB:
            from fp8load.source.hub import HubSource

            return HubSource(spec.repo_id, revision=spec.revision, subpath=spec.subpath)
        case _:
            assert_never(spec.kind)


def _path_of(spec: SourceSpec) -> Path:
    if spec.path is None:
        raise UsageError(Problem(code="USE002", message=f"a {spec.kind} source needs a path", file=spec.text))
    return spec.path
