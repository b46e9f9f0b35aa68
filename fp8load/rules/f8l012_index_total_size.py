"""F8L012: the index's total_size is not the number of bytes that the tensors have."""

import json
from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.index.configs import MAIN_INDEX, find_index
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED, QUANTIZED_NAMES


def check(context: Context) -> Iterator[Problem]:
    """The sum over all headers, where each tensor that the index names was found."""
    index = context.checkpoint.index
    if index.total_size is None or index.declared is None or index.declared.keys() - index.tensors.keys():
        return
    if index.total_size != index.nbytes:
        yield Problem(
            code="F8L012", message="total_size of the index is not the size of the tensors",
            file=find_index(context.checkpoint.source.list()) or MAIN_INDEX, expected=f"{index.nbytes:,} bytes",
            got=f"{index.total_size:,} bytes", severity=Severity.INFO, refuses=False,
            hint="planners of memory and of downloads believe it: correct metadata.total_size",
        )  # fmt: skip


def _index(total_size: int) -> dict[str, bytes]:
    document = {
        "metadata": {"total_size": total_size},
        "weight_map": dict.fromkeys(QUANTIZED_NAMES, "model.safetensors"),
    }
    return {MAIN_INDEX: json.dumps(document).encode()}


RULE = Rule(
    code="F8L012",
    name="index-total-size",
    level="headers",
    severity=Severity.INFO,
    what="metadata.total_size of model.safetensors.index.json is the sum of the tensors' bytes.",
    why="Tools that plan memory read this number instead of the headers. After quantization it is often the old one.",
    fix="Write the sum into the index.",
    check=check,
    examples=(
        Example(title="the size before quantization", skeleton=BLOCK + QUANTIZED, count=1, files=_index(131072)),
        Example(title="the sum", skeleton=BLOCK + QUANTIZED, count=0, files=_index(256 * 256 + 4 * 4)),
    ),
)
