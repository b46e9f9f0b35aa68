"""What a profile says: which checkpoints one version of an engine reads, and what it does with the others.

A profile is data, one TOML file in `data/`. Every table has `where`: the place in the engine's source that it was read
from. What a profile does not mention is not known, and no rule says anything about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fp8load.engines.gpus import GPUS
from fp8load.engines.kinds import KINDS


def _known_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"no such kind: {', '.join(unknown)}")
    return kinds


def _known_gpu(gpu: str) -> str:
    if gpu not in GPUS:
        raise ValueError(f"no such GPU architecture: {gpu}")
    return gpu


Kinds = Annotated[tuple[str, ...], AfterValidator(_known_kinds)]
"""Names from `fp8load.engines.kinds`."""

Gpu = Annotated[str, AfterValidator(_known_gpu)]
"""A name from `fp8load.engines.gpus`."""

Layout = Literal["single", "stacked", "scales-stacked"]
"""How experts are stored: one by one, one tensor for all, or one by one with the scales of all in one tensor."""

Way = Literal["exact", "regex", "run", "substring", "fnmatch", "glob", "part", "parent"]
"""How an entry of an ignore list is compared with a module's name; see `fp8load.engines.ignore`."""


class Fact(BaseModel):
    """Something that was read from an engine's source, and the place where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: str


class IgnoreFact(Fact):
    """How an engine reads the list of what is not quantized.

    keys     of the quantization configuration, the first that is there and not empty counts
    flat     values of ModelOpt's quant_algo, each with the keys that count in its flat layout where those are others
    merged   whether the lists under all of them count
    ways     an entry covers a module when one of these says so
    fused    which names of a fused layer are looked up: those of its parts, its own, or both; "any": both, and one that
             is found is enough
    by_parts last components of fused layers that count as listed, too, where all of their parts are
    also     ways in which the layer's own name is compared besides
    experts  whether one entry for one expert switches the whole mixture off ("any"), or only one for all does
             ("whole"), or none ("never")
    mapped   whether entries are renamed as the engine renames modules
    """

    keys: tuple[str, ...]
    flat: tuple[tuple[str, tuple[str, ...]], ...] = ()
    merged: bool = False
    ways: tuple[Way, ...]
    fused: Literal["parts", "whole", "both", "any"] = "parts"
    by_parts: tuple[str, ...] = ()
    also: tuple[Way, ...] = ()
    experts: Literal["any", "whole", "never"] = "whole"
    mapped: bool = False


class ExpertsFact(Fact):
    """Layouts of experts that are read; `families`: of these models only. `otherwise` is what becomes of the rest."""

    layouts: tuple[Layout, ...]
    families: tuple[str, ...] = ()
    otherwise: str


class TargetsFact(Fact):
    """In which order an engine tries what the targets of a config group may mean of a fused layer: its own name, the
    class of the layer, the names of its parts. The first that is found counts."""

    order: tuple[Literal["name", "class", "parts"], ...]


class FormatFact(Fact):
    """What an engine reads of one dialect.

    linears      kinds of linear layers that it has code for; None: not known, it hands over to the tool's own package
    experts      the same of routed experts; None: as `linears`
    families     kind -> the models in which alone it reads layers of that kind
    weights      kind -> the dtypes in which it takes weights of that kind from the file; not there: any
    groups       how many config groups it tells apart, None: any; `ungrouped`: what becomes of more
    sizes        sizes of blocks that it takes, none: any
    algos        values of quant_algo that it accepts; None: it does not look
    names        kind -> role -> suffixes that it reads; a kind or a role that is not there is not compared
    unnamed      what becomes of a tensor under another suffix
    transforms   what may belong to a weight beside its scales
    unquantized  last components of modules that it builds in 16 bits whatever is stored
    ignore       how it reads the list of what is not quantized
    layouts      of experts
    targets      how it finds the config group of a fused layer, where that is not how the dialect is read
    """

    linears: Kinds | None = None
    experts: Kinds | None = None
    families: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    weights: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    groups: int | None = None
    ungrouped: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    algos: tuple[str, ...] | None = None
    names: Mapping[str, Mapping[str, tuple[str, ...]]] = Field(default_factory=dict)
    unnamed: str = "it is left out"
    transforms: tuple[str, ...] = ()
    unquantized: tuple[str, ...] = ()
    ignore: IgnoreFact | None = None
    layouts: tuple[ExpertsFact, ...] = ()
    targets: TargetsFact | None = None


class PlacesFact(Fact):
    """Where an engine looks for a quantization configuration; `otherwise`: what becomes of one that lies elsewhere."""

    reads: tuple[str, ...]
    otherwise: str


class KVFact(Fact):
    """Names of KV-cache scales that an engine reads: regular expressions that are searched in the name.

    formats    expressions that count for one dialect only
    otherwise  what becomes of a scale under another name
    remedy     what to do where the engine reads no such scale at all, under any name
    loads      whether the engine runs the checkpoint all the same
    """

    names: tuple[str, ...]
    formats: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    otherwise: str
    remedy: str = ""
    loads: bool = False


class ScaleFact(Fact):
    """What becomes of the scales of these kinds that are stored in these dtypes (as the header names them)."""

    kinds: Kinds
    dtypes: tuple[str, ...]
    formats: tuple[str, ...] = ()
    effect: str
    remedy: str


class FusedFact(Fact):
    """Layers stored fused, with one number for all parts, that an engine reads wrongly: of these kinds."""

    kinds: Kinds
    formats: tuple[str, ...] = ()
    effect: str


class BlocksFact(Fact):
    """What an engine does with blocks of scales that a split or a fused layer cuts.

    merged   members of a fused layer that end inside a block: refused, or the rows there get another member's scale
    last     whether the last member counts even on one rank
    whole    last components of fused layers of which this is not asked
    experts  shares of experts that end inside a block: refused, or refined to smaller blocks of at least `finest`
    """

    formats: tuple[str, ...]
    merged: Literal["refuses", "shares"]
    last: bool = False
    whole: tuple[str, ...] = ()
    experts: Literal["refuses", "refines"] = "refuses"
    finest: int = 1


class GpuFact(Fact):
    """The oldest NVIDIA architecture that runs these kinds, and from which on it runs them as stored.

    `fallback` says what happens between the two.
    """

    kinds: Kinds
    formats: tuple[str, ...] = ()
    oldest: Gpu
    native: Gpu
    fallback: str = ""


class RoundingFact(Fact):
    """Linear layers of these kinds whose scales an engine rounds to powers of two while loading, on these GPUs.

    The weights are quantized once more under them; scales that are powers of two already stay what they are.

    sizes      of blocks of which it is so, none: any
    multiples  of which rows and columns are multiples; another kernel, which takes scales as stored, has the rest
    families   of these models only, and not of `except_families`
    formats    of these dialects only
    unless     what keeps scales as they are stored
    """

    kinds: Kinds
    gpus: tuple[Gpu, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    multiples: tuple[int, int] = (1, 1)
    families: tuple[str, ...] = ()
    except_families: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    unless: str


class DriftFact(Fact):
    """A configuration that another version writes and this one reads differently.

    format    the dialect
    nested    it counts for ModelOpt's older layout only, with its keys under "quantization"; flat: for the newer only
    algos     it counts for these values of quant_algo only; none: for any
    has       a key that has to be there for it, lacks: one that must not
    nullable  whether a key that is null does for one that is there
    null      a key that is there, and null
    says      keys with the values that they have to have for it
    loud      whether the engine stops; else it goes on with something else
    spoils    whether what it goes on with is another model
    """

    format: str
    nested: bool = False
    flat: bool = False
    algos: tuple[str, ...] = ()
    has: str = ""
    lacks: str = ""
    nullable: bool = False
    null: str = ""
    says: Mapping[str, str] = Field(default_factory=dict)
    effect: str
    remedy: str
    loud: bool = False
    spoils: bool = False


class RenameFact(Fact):
    """What an engine renames in models of these types, each as (stored, the engine's): pieces wherever they stand in a
    name, every one once; then prefixes, the first that fits."""

    families: tuple[str, ...]
    prefixes: tuple[tuple[str, str], ...] = ()
    pieces: tuple[tuple[str, str], ...] = ()


class Profile(BaseModel):
    """One version of an engine.

    engine     what `--engine` calls it, "vllm"; aliases: other names
    versions   each stands for itself and everything below it: "0.33" for 0.33.0 and 0.33.2
    read_from  what was read to write the profile
    role       a converter only has to find every tensor, an engine runs the checkpoint
    pads       kinds of which it pads the weights to what its kernels need
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    title: str
    aliases: tuple[str, ...] = ()
    versions: tuple[str, ...]
    read_from: str
    role: Literal["engine", "converter"] = "engine"
    weight_dtypes: tuple[str, ...] = ()
    pads: Kinds = ()
    places: PlacesFact | None = None
    formats: Mapping[str, FormatFact]
    kv: KVFact | None = None
    scales: tuple[ScaleFact, ...] = ()
    fused: tuple[FusedFact, ...] = ()
    blocks: tuple[BlocksFact, ...] = ()
    gpus: tuple[GpuFact, ...] = ()
    rounding: tuple[RoundingFact, ...] = ()
    drift: tuple[DriftFact, ...] = ()
    renames: tuple[RenameFact, ...] = ()

    def __str__(self) -> str:
        return f"{self.title} {self.versions[0]}"

    @property
    def spec(self) -> str:
        """What `--engine` takes: "vllm@0.33"."""
        return f"{self.engine}@{self.versions[0]}"
