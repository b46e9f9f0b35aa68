"""F8L007: a file's free metadata is no map of strings, or names no framework."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.inside import COMFYUI
from fp8load.index.layout import encode_header
from fp8load.index.skeleton import parse_skeleton
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED

FRAMEWORKS = ("pt", "tf", "flax", "mlx")
"""Values of `format` that transformers accepts."""


def check(context: Context) -> Iterator[Problem]:
    """What reading found, and the files whose metadata names no framework."""
    said = set()
    for problem in context.problems("F8L007"):
        said.add(problem.file)
        yield problem
    if context.checkpoint.format.name in COMFYUI:  # no file for transformers
        return
    for file in context.checkpoint.index.files.values():
        written = file.metadata.get("format")
        if written in FRAMEWORKS or file.name in said:
            continue
        none = "no format" if file.metadata else "no metadata, or empty ones"
        yield Problem(
            code="F8L007", message="the header's metadata names no framework", file=file.name,
            expected='{"format": "pt"} under __metadata__', got=none if written is None else repr(written)[:80],
            severity=Severity.INFO, refuses=False,
            hint="transformers before 4.47.1 refuses such a file, fastsafetensors fails where the metadata are empty; "
            "saving it once more adds the key",
        )  # fmt: skip


def _without_metadata(skeleton: str) -> dict[str, bytes]:
    """The file of a skeleton, with a header that has no free metadata and zeros as data."""
    index = parse_skeleton(skeleton)
    ((name, file),) = index.files.items()
    metas = list(index.tensors.values())
    return {name: encode_header(metas, file.header_nbytes, {}) + bytes(index.nbytes)}


RULE = Rule(
    code="F8L007",
    name="header-metadata",
    level="headers",
    severity=Severity.INFO,
    what="__metadata__ of each header maps strings to strings, and `format` in it names a framework. Something else "
         "than strings is an error.",
    why="safetensors refuses metadata that are no strings; releases of transformers before 4.47.1 refuse a file whose "
        "metadata do not name the framework.",
    fix="Save the file once more with `save_file(..., metadata={'format': 'pt'})`; the weights stay as they are.",
    check=check,
    examples=(
        Example(title="no metadata", skeleton=BLOCK + QUANTIZED, count=1, files=_without_metadata(QUANTIZED)),
        Example(title='format "pt"', skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
