"""F8L109: tensors and config.json disagree about which tensors there are, or about their shapes."""

from fp8load.errors import Severity
from fp8load.rules.base import Example, Rule, found
from fp8load.rules.samples import LLAMA

RULE = Rule(
    code="F8L109",
    name="config-count-vs-tensors",
    level="headers",
    severity=Severity.ERROR,
    what="Every tensor that the family has with this config.json is stored in its shape, no other is, and tensors at "
         "the same place of each layer have one dtype.",
    why="A norm that is missing keeps its initial ones, and the model answers worse without an error.",
    fix="Find the export step that lost or added the tensor; or config.json belongs to another model.",
    check=found("F8L109"),
    examples=(
        Example(title="the final norm is missing", count=1,
                skeleton=LLAMA.replace("model.norm.weight", "# model.norm.weight")),
        Example(title="complete", skeleton=LLAMA, count=0),
    ),
)  # fmt: skip
