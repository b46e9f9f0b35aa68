"""F8L911: the configuration and the tensors disagree about layers for multi-token prediction."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.mtp import MtpNames, key_of_declared, num_declared
from fp8load.rules.samples import BLOCK, QUANTIZED

DECLARED = 'config {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}\n'
BEHIND = QUANTIZED.replace("layers.0", "layers.1")


def check(context: Context) -> Iterator[Problem]:
    """None of the declared layers, or layers although the configuration says 0. A lost shard is no missing layer."""
    index = context.checkpoint.index
    declared = num_declared(index.config)
    if declared is None:
        return
    layer_of, names = MtpNames(index.config).layer, index.declared or index.tensors
    if declared > 0 and not any(map(layer_of, names)):
        yield Problem(
            code="F8L911", message="layers for multi-token prediction are declared and not stored", file="config.json",
            expected=f"{declared:,} behind the last layer of the decoder, or under mtp, by "
            f"{key_of_declared(index.config)}", got="none", severity=Severity.INFO, refuses=False,
            hint="legal, many exports leave them out; speculative decoding would run on uninitialised memory",
        )  # fmt: skip
    stored = {layer: name for name in names if (layer := layer_of(name)) is not None} if declared == 0 else {}
    if stored:
        layer, name = next(iter(stored.items()))
        yield Problem(
            code="F8L911", message="layers for multi-token prediction are stored and the configuration says 0",
            tensor=name, file=index.tensors[name].file if name in index.tensors else "", got=f"{layer} is stored",
            expected=f"no such layer, by {key_of_declared(index.config)}", severity=Severity.WARNING, refuses=False,
            hint="correct the number in config.json: engines do not build the layer",
        )  # fmt: skip


RULE = Rule(
    code="F8L911",
    name="mtp-missing",
    level="headers",
    severity=Severity.WARNING,
    what="Layers for multi-token prediction that config.json declares are stored, which is only noted; and none is "
         "stored where it declares 0.",
    why="Tools drop these layers when they quantize. A server that drafts with them runs on uninitialised memory, and "
        "accepts no token.",
    fix="Set the number in config.json to that of the stored layers, or take the layers from the unquantized model.",
    check=check,
    examples=(
        Example(title="declared, not stored", skeleton=DECLARED + BLOCK + QUANTIZED, count=1),
        Example(title="stored, and 0 declared", count=1,
                skeleton=DECLARED.replace("layers\": 1}", "layers\": 0}") + BLOCK + QUANTIZED + BEHIND),
        Example(title="declared and stored", skeleton=DECLARED + BLOCK + QUANTIZED + BEHIND, count=0),
        Example(title="stored, and nothing is said of it", count=0,
                skeleton='config {"num_hidden_layers": 1}\n' + BLOCK + QUANTIZED + BEHIND),
    ),
)  # fmt: skip
