"""F8L301: an entry of the ignore list means no module of the checkpoint."""

from collections.abc import Iterator
from difflib import get_close_matches

from fp8load.errors import Problem, Severity
from fp8load.formats.base import CheckpointFormat
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.listed import may_be_absent, reads_globs
from fp8load.rules.samples import LISTED, QUANTIZED

_NEAR = 0.85
"""How alike two names are of which one is a slip: "upproj" is to "up_proj" by 0.92, "q_proj" to "k_proj" by 0.83."""


def check(context: Context) -> Iterator[Problem]:
    """Entries that cover nothing, by their own dialect; the nearest stored name is offered.

    Regular expressions are a recipe's, written for many families (llm-compressor's model_free_ptq keeps them as they
    are): one that covers nothing is no fault. Nor is a glob that begins anywhere, "*router*" (ModelOpt's, Quark's).
    """
    fmt = context.checkpoint.format
    if not fmt.ignore:
        return
    candidates = context.checkpoint.stored.names
    listed = [entry for entry in dict.fromkeys(fmt.ignore) if entry not in candidates.modules]
    claimed = _Claimed(context)
    for entry in listed:
        if candidates.covered(entry, fmt):
            continue
        meant = claimed.meant(entry)
        if meant is None and may_be_absent(entry):
            continue
        got = candidates.nearest(entry, fmt) if meant is None else f"no such module; {meant} is stored in 16 bits"
        yield Problem(
            code="F8L301", message="an entry of the ignore list covers no module" if meant is None
            else "an entry of the ignore list misses a module that is then claimed, and stored unquantized",
            module=entry, file=fmt.place, expected="the name of a module of this checkpoint", got=got, refuses=False,
            severity=_severity(entry, meant, fmt), hint="rewrite the entry to the stored name, or remove it"
            if meant is None else "rewrite the entry to the stored name",
        )  # fmt: skip


class _Claimed:
    """Modules that are stored in 16 bits and that the configuration claims (F8L302), by how an entry may mean them."""

    def __init__(self, context: Context) -> None:
        self._by_end: dict[str, dict[tuple[str, ...], str]] = {}
        self._by_parent: dict[str, list[str]] = {}
        for problem in context.problems("F8L302"):
            for end in _ends(problem.module):
                self._by_end.setdefault(end, {}).setdefault(_numbers(problem.module), problem.module)
            parent, _, last = problem.module.rpartition(".")
            self._by_parent.setdefault(parent, []).append(last)

    def meant(self, entry: str) -> str | None:
        """The module of the same layer that ends as the entry does, else the one that the entry is about, with a
        component too many or with a slip in the last one."""
        for end in _ends(entry):
            if found := self._of_layer(end, entry):
                return found
        parent, _, last = entry.rpartition(".")
        if "." in parent and (found := self._of_layer(parent, entry)):
            return found
        near = get_close_matches(last, self._by_parent.get(parent, ()), 1, _NEAR)
        return f"{parent}.{near[0]}".removeprefix(".") if near else None

    def _of_layer(self, end: str, entry: str) -> str | None:
        found, numbers = self._by_end.get(end, {}), _numbers(entry)
        return found.get(numbers, found.get(())) if numbers else next(iter(found.values()), None)


def _numbers(name: str) -> tuple[str, ...]:
    """The numbers of layers and experts in a name."""
    return tuple(part for part in name.split(".") if part.isdecimal())


def _ends(name: str) -> Iterator[str]:
    """The name, and what is left of it without its first components."""
    parts = name.split(".")
    return (".".join(parts[begin:]) for begin in range(len(parts)))


def _severity(entry: str, meant: str | None, fmt: CheckpointFormat) -> Severity:
    if meant is not None:
        return Severity.ERROR
    is_recipe = entry.startswith("re:") or (entry.startswith("*") and reads_globs(fmt))
    return Severity.INFO if is_recipe else Severity.WARNING


RULE = Rule(
    code="F8L301",
    name="ignore-entry-matches-nothing",
    level="headers",
    severity=Severity.WARNING,
    what="Every entry of the ignore list covers a module, in the dialect of its format. Heads and embeddings need not "
         "be stored; patterns of a recipe (`re:`, a glob with a leading *) are only noted. Where the linear layer that "
         "is meant is stored in 16 bits and then claimed, it is an error.",
    why="Entries under other names than the stored ones are what is left when a tool renames modules: an engine then "
        "quantizes what is stored in BF16.",
    fix="Rewrite the entries to the stored names.",
    check=check,
    examples=(
        Example(title="an entry under another prefix", count=1,
                skeleton=LISTED.replace("lm_head", "language_model.layers.0.mlp.gate") + QUANTIZED
                + "model.layers.0.mlp.gate.weight  BF16  [8, 256]\n"),
        Example(title="an entry under another prefix, and the linear layer that it means is claimed", count=1,
                skeleton=LISTED.replace("lm_head", "language_model.layers.1.mlp.up_proj") + QUANTIZED
                + "model.layers.1.mlp.up_proj.weight  BF16  [256, 256]\n"),
        Example(title="a slip of the pen, and the linear layer is claimed", count=1,
                skeleton=LISTED.replace("lm_head", "model.layers.1.mlp.upproj") + QUANTIZED
                + "model.layers.1.mlp.up_proj.weight  BF16  [256, 256]\n"),
        Example(title='"model." in front, and not in the files', count=0,
                skeleton=LISTED.replace("lm_head", "model.vision_tower")
                + (QUANTIZED + "model.vision_tower.0.fc1.weight  BF16  [8, 256]\n").replace("model.", "")),
        Example(title="a parameter", count=0,
                skeleton=LISTED.replace("lm_head", "e_score_correction_bias") + QUANTIZED
                + "model.layers.0.mlp.gate.e_score_correction_bias  F32  [8]\n"),
        Example(title="lm_head need not be stored", skeleton=LISTED + QUANTIZED, count=0),
    ),
)  # fmt: skip
