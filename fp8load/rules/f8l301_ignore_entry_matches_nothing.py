"""F8L301: an entry of the ignore list means no module of the checkpoint."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.listed import may_be_absent
from fp8load.rules.samples import LISTED, QUANTIZED


def check(context: Context) -> Iterator[Problem]:
    """Entries that cover nothing, by their own dialect; the nearest stored name is offered.

    Regular expressions are a recipe's, written for many families (llm-compressor's model_free_ptq keeps them as they
    are): one that covers nothing is no fault.
    """
    fmt = context.checkpoint.format
    if not fmt.ignore:
        return
    candidates = context.checkpoint.stored.names
    for entry in dict.fromkeys(fmt.ignore):
        if entry in candidates.modules or may_be_absent(entry) or candidates.covered(entry, fmt):
            continue
        yield Problem(
            code="F8L301", message="an entry of the ignore list covers no module", module=entry, file=fmt.place,
            expected="the name of a module of this checkpoint", got=candidates.nearest(entry, fmt), refuses=False,
            severity=Severity.INFO if entry.startswith("re:") else Severity.WARNING,
            hint="rewrite the entry to the stored name, or remove it",
        )  # fmt: skip


RULE = Rule(
    code="F8L301",
    name="ignore-entry-matches-nothing",
    level="headers",
    severity=Severity.WARNING,
    what="Every entry of the ignore list covers a module, in the dialect of its format. Heads and embeddings need not "
         "be stored.",
    why="Entries under other names than the stored ones are what is left when a tool renames modules: an engine then "
        "quantizes what is stored in BF16.",
    fix="Rewrite the entries to the stored names.",
    check=check,
    examples=(
        Example(title="an entry under another prefix", count=1,
                skeleton=LISTED.replace("lm_head", "language_model.layers.0.mlp.gate") + QUANTIZED
                + "model.layers.0.mlp.gate.weight  BF16  [8, 256]\n"),
        Example(title='"model." in front, and not in the files', count=0,
                skeleton=LISTED.replace("lm_head", "model.vision_tower")
                + (QUANTIZED + "model.vision_tower.0.fc1.weight  BF16  [8, 256]\n").replace("model.", "")),
        Example(title="a parameter", count=0,
                skeleton=LISTED.replace("lm_head", "e_score_correction_bias") + QUANTIZED
                + "model.layers.0.mlp.gate.e_score_correction_bias  F32  [8]\n"),
        Example(title="lm_head need not be stored", skeleton=LISTED + QUANTIZED, count=0),
    ),
)  # fmt: skip
