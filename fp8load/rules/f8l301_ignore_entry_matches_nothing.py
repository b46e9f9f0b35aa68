"""F8L301: an entry of the ignore list means no module of the checkpoint."""

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from fp8load.archs.base import Experts, Head, Linear, Plain, Table, Tower, Vector
from fp8load.errors import Problem, Severity
from fp8load.formats.base import CheckpointFormat
from fp8load.formats.match import is_embedding
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.samples import LISTED, QUANTIZED
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

_PLAIN = re.compile(r"[\w.-]+")


def check(context: Context) -> Iterator[Problem]:
    """Entries that cover nothing, by their own dialect; the nearest stored name is offered.

    Regular expressions are a recipe's, written for many families (llm-compressor's model_free_ptq keeps them as they
    are): one that covers nothing is no fault.
    """
    fmt = context.checkpoint.format
    if not fmt.ignore:
        return
    modules = _modules(context.checkpoint)
    listed = [entry for entry in dict.fromkeys(fmt.ignore) if entry not in modules]
    candidates = _Candidates(modules) if listed else None
    for entry in listed:
        if candidates is None or _may_be_absent(entry) or candidates.covered(entry, fmt):
            continue
        yield Problem(
            code="F8L301", message="an entry of the ignore list covers no module", module=entry, file=fmt.place,
            expected="the name of a module of this checkpoint", got=candidates.nearest(entry, fmt), refuses=False,
            severity=Severity.INFO if entry.startswith("re:") else Severity.WARNING,
            hint="rewrite the entry to the stored name, or remove it",
        )  # fmt: skip


def _modules(checkpoint: "Checkpoint") -> set[str]:
    """Modules and parameters that are stored, and what the family has: a tied head is not stored and may be listed.

    Tools list parameters too (GLM-5 `k_norm.bias`, MiniMax `e_score_correction_bias`): such an entry is not stale.
    """
    lowered = checkpoint.lowered
    stacks = (stack.base for stack in lowered.stacks.values())
    modules = {*lowered.modules, *stacks, *lowered.loose, *(name.rpartition(".")[0] for name in lowered.loose)}
    modules.update(info.tensors[Role.BIAS].name for info in lowered.modules.values() if Role.BIAS in info.tensors)
    for at, entry in checkpoint.model.entries() if checkpoint.model is not None else ():
        match entry:
            case Linear():
                modules.add(at + entry.target)
                modules.update(at + part.module for part in entry.parts)
            case Head():
                modules.add(at + entry.module)
            case Experts():
                holder = at + (entry.stored or entry.target)
                modules |= {holder, f"{holder}.0"}
            case Vector() | Plain() | Table():
                modules.add((at + entry.name).rpartition(".")[0])
            case Tower():
                modules.add(entry.prefix)
    return modules


def _may_be_absent(entry: str) -> bool:
    """Heads and embeddings: exporters list them whether or not they are stored."""
    last = re.split(r"[.*\\]+", entry)[-1].strip("$")
    return last == "lm_head" or is_embedding(last)


class _Candidates:
    """Modules by their components, so that thousands of entries are looked up and not searched."""

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = modules
        self._by_component: dict[str, list[str]] = {}
        for module in modules:
            for component in set(module.split(".")):
                self._by_component.setdefault(component, []).append(module)

    def covered(self, entry: str, fmt: CheckpointFormat) -> bool:
        """Whether the entry covers some module. In any dialect a plain entry's components stand in the name.

        A leading "model" need not: transformers renames between saving and loading.
        """
        among = self._modules
        if _PLAIN.fullmatch(entry):
            parts = entry.removeprefix("model.").split(".")
            among = min((self._by_component.get(part, []) for part in parts), key=len)
        return any(fmt.covers(entry, module) for module in among)

    def nearest(self, entry: str, fmt: CheckpointFormat) -> str:
        """A module that ends in the same component, or one beside which the entry would stand and that it may mean."""
        parent, _, last = entry.rpartition(".")
        same = self._by_component.get(last)
        if same is None and parent:
            same = [name for name in self._modules if name.startswith(f"{parent}.") and fmt.may_cover(entry, name)]
        return f"no such module; nearest: {min(same)}" if same else "no such module"


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
