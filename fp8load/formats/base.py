"""What a checkpoint format is: where its configuration lies, what it claims of each module, and how tensors are named.

A format file parses one dialect's configuration into a `CheckpointFormat`. Everything after that is dialect-free:
`fp8load.formats.lower` joins a module's tensors with the format's claim into a `LinearScheme`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fp8load.errors import Problem
from fp8load.scheme import KVScheme, LinearScheme, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The configuration says that the module is quantized, in this way.

    `scheme` is a template: scale dtypes are filled in from the tensors. `explicit` says whether the configuration lists
    what is quantized or what is not, so that an unquantized linear module contradicts it. `by` names the entry.
    `alternatives` are schemes that the configuration leaves open beside `scheme`: the dtypes of the tensors decide.
    """

    scheme: LinearScheme
    by: str
    explicit: bool
    alternatives: tuple[LinearScheme, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """The configuration says that the module is left as it was; `by` is the entry that says so.

    `base` is how it is stored where that was quantized before: tools put their experts on checkpoints that were FP8.
    """

    by: str
    base: Claimed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclaimed:
    """The configuration says nothing about the module; `because`: what it would have to say, where that is known."""

    because: str = ""


Claim = Claimed | Ignored | Unclaimed


class RoleOf(NamedTuple):
    """The role of a suffix that means different things in different modules: which ones, and which in a module."""

    roles: tuple[Role, ...]
    find: Callable[[str], Role]


def last_dot(name: str) -> tuple[str, str]:
    """Module and suffix of a tensor's name: everything before the last dot, and the rest."""
    base, _, last = name.rpartition(".")
    return base, last


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFormat:
    """A parsed quantization configuration.

    name          the format's file name, e.g. "compressed_tensors"
    title         one line for people, e.g. "compressed-tensors: e4m3 weights, per channel; input dynamic, per token"
    place         where the configuration was found, e.g. "config.json quantization_config"
    claim         module name -> what the configuration says of it
    suffixes      last component of a tensor's name -> its role, for the dialect's own names
    by_module     suffix -> its role by module, where the module's scheme decides; counts before `suffixes`
    kv            how the KV cache is quantized, if it is
    ignore        the entries of the ignore list, as written
    covers        ignore entry and module name -> whether the entry, in this dialect, covers the module
    may_cover     whether some reader of this dialect takes the entry to cover the module, although `covers` does not
    unknown_keys  keys that this version does not know; kept and reported
    unconverted   module shape -> why a tool of this format leaves such a weight unquantized although the
                  configuration claims it, or None
    split         tensor name -> module and suffix, where that is not the last dot
    unused        suffixes of tensors that are left out, with the reason
    renames_weights   every quantized weight has the name that `suffixes` gives, not only packed ones
    on_base       another tool's quantization lies below: what a second file of this tool does not claim keeps that
    problems      what is wrong with the configuration itself
    """

    name: str
    title: str
    place: str
    claim: Callable[[str], Claim]
    suffixes: Mapping[str, Role]
    by_module: Mapping[str, RoleOf] = field(default_factory=dict)
    kv: KVScheme | None = None
    ignore: tuple[str, ...] = ()
    covers: Callable[[str, str], bool] = lambda entry, module: entry == module
    may_cover: Callable[[str, str], bool] = lambda _entry, _module: False
    unknown_keys: tuple[str, ...] = ()
    unconverted: Callable[[tuple[int, ...]], str | None] = lambda _shape: None
    split: Callable[[str], tuple[str, str]] = last_dot
    unused: Mapping[str, str] = field(default_factory=dict)
    renames_weights: bool = False
    on_base: bool = False
    problems: tuple[Problem, ...] = ()


MODEL_KEYS = ("model_type", "architectures")
"""Keys of config.json that say which model it is: some models have a dialect of their own under a common method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A quantization configuration, the place where it was found, and every configuration file by its name; `why` that
    place counts before those after it."""

    place: str
    document: Mapping[str, Any]
    why: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> Mapping[str, Any]:
        """config.json, or nothing."""
        return self.files.get("config.json", {})

    @property
    def seen(self) -> Mapping[str, Any]:
        """What `detect` sees: the document, and for one with a quant_method which model it is of."""
        if "quant_method" not in self.document:
            return self.document
        return {**{key: self.model[key] for key in MODEL_KEYS if key in self.model}, **self.document}


class FormatModule(Protocol):
    """What each file in this folder defines (`locate.py`, `lower.py`, `match.py` and this one aside)."""

    NAME: str

    @staticmethod
    def detect(document: Mapping[str, Any]) -> bool:
        """Whether a quantization configuration is of this format; `document` is `Located.seen`."""
        ...

    @staticmethod
    def parse(located: Located) -> CheckpointFormat:
        """The configuration as a value. Raises `ConfigError` that names the key, expected and got."""
        ...
