"""F8L006: a second copy of the weights lies beside the first."""

import re
from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import BLOCK, QUANTIZED

COPY = "layers.0.feed_forward.w2.weight  BF16  [256, 256]  @ consolidated.safetensors\n"
INDEX = {"model.safetensors.index.json": None}

_ELSEWHERE = re.compile(
    r"(?:original|metal)/.+\.(?:bin|pth?|safetensors)|(?:pytorch_model|consolidated)[\w.-]*\.(?:bin|pth?)"
)


def check(context: Context) -> Iterator[Problem]:
    """What reading found, and copies that no reader of safetensors merges: downloads fetch them all the same."""
    yield from context.problems("F8L006")
    names = sorted(name for name in context.checkpoint.source.list() if _ELSEWHERE.fullmatch(name))
    if names:
        yield Problem(
            code="F8L006", message="the weights lie here once more, pickled or in another folder", file=names[0],
            expected="*.safetensors at the top", got=", ".join(names[:3]) + (" ..." if len(names) > 3 else ""),
            severity=Severity.INFO, refuses=False, hint="leave them out when downloading: `hf download --exclude`",
        )  # fmt: skip


RULE = Rule(
    code="F8L006",
    name="second-copy-of-the-weights",
    level="headers",
    severity=Severity.WARNING,
    what="No further .safetensors files hold more than half of the parameters again, or weights for more than half of "
    "the modules, packed or under another prefix. Pickled copies are noted.",
    why="Loaders that read *.safetensors merge both copies; which of two equal names wins depends on the order.",
    fix="Delete one copy, or exclude it when downloading: `hf download --exclude 'consolidated*'`.",
    check=check,
    examples=(
        Example(title="consolidated.safetensors beside model.safetensors", skeleton=BLOCK + QUANTIZED + COPY, count=1,
                files=INDEX),
        Example(title="pytorch_model.bin beside it", skeleton=BLOCK + QUANTIZED, count=1,
                files={"pytorch_model.bin": b"\x80"}),
        Example(title="one copy", skeleton=BLOCK + QUANTIZED, count=0),
    ),
)  # fmt: skip
