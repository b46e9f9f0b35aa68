"""Does the engine leave the same layers in 16 bits as the checkpoint does: its reading of the ignore list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, assert_never

from fp8load.archs.base import Experts, Linear, Tower
from fp8load.archs.model import Model, is_fused_on_disk
from fp8load.engines.profile import IgnoreFact, Profile, RenameFact, Way
from fp8load.engines.reads import algo_of
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.errors import ConfigError
from fp8load.formats.base import Ignored
from fp8load.formats.fp8 import UNLISTED
from fp8load.formats.match import checked, exact_or_regex, is_embedding, is_router
from fp8load.scheme import Role

if TYPE_CHECKING:
    from fp8load.formats.lowered import ModuleInfo

LOST = "the weight is cast to 8 bits and its scale is whatever memory held"
DROPPED = "the codes are read as numbers, without their scale"


def _glob(entry: str) -> str:
    return re.escape(entry).replace(r"\*", ".*")


@lru_cache(maxsize=64)
def _covering(way: Way, entries: frozenset[str]) -> Callable[[str], bool]:
    """Whether some entry covers a module, read in one way: one expression for all, because lists are long."""
    match way:
        case "exact":
            return entries.__contains__
        case "regex":
            expressions = [entry for entry in entries if entry.startswith("re:")]
            return lambda module: any(exact_or_regex(entry, module) for entry in expressions)
        case "run":
            within = _any_of(rf"\.{re.escape(entry.rstrip('.'))}\." for entry in entries)
            return lambda module: within.search(f".{module}.") is not None
        case "substring":
            anywhere = _any_of(re.escape(entry) for entry in entries if entry)
            return lambda module: anywhere.search(module) is not None
        case "fnmatch":
            shell = _any_of(translate(entry) for entry in entries)
            return lambda module: shell.match(module) is not None
        case "glob":
            stars = _any_of(map(_glob, entries))
            return lambda module: stars.fullmatch(module) is not None
        case "part":
            parts = _any_of(map(_glob, entries))
            return lambda module: any(parts.fullmatch(part) for part in module.split("."))
        case "parent":
            above = _any_of(_of_parents(entries))
            return lambda module: any(above.fullmatch(name) for name in _upwards(module))
        case _:
            assert_never(way)


def _of_parents(entries: Iterable[str]) -> Iterator[str]:
    """Expressions for entries that cover what is below them, too: `re:` for a whole name, else a shell's pattern, whose
    `.*` at the end stands for the parent itself as well."""
    for entry in entries:
        if entry.startswith("re:"):
            yield entry.removeprefix("re:")
        else:
            yield translate(entry)
            yield translate(entry.removesuffix(".*"))


def _upwards(module: str) -> Iterator[str]:
    """A module's name and those of its parents, the nearest first."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Any of these, or what nothing matches where there are none."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns)) or r"(?!)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An ignore list as one engine reads it."""

    fact: IgnoreFact
    entries: frozenset[str]
    rename: RenameFact | None

    def engine_name(self, module: str) -> str:
        """What the engine calls a stored module."""
        return _renamed(f"{module}.", self.rename)[:-1]

    def skips(self, name: str, parts: tuple[str, ...]) -> bool | None:
        """Whether the layer stays in 16 bits; None where its parts disagree and the engine stops."""
        if self._covers(name, self.fact.also):
            return True
        by_name = self._covers(name, self.fact.ways)
        if self.fact.fused == "whole" or len(parts) < 2:
            are_all = len(parts) > 1 and all(self._covers(part, self.fact.ways) for part in parts)
            return by_name or (are_all and name.rpartition(".")[2] in self.fact.by_parts)
        if self.fact.fused in ("both", "any") and by_name:
            return True
        if self.fact.fused == "any":
            return any(self._covers(part, self.fact.ways) for part in parts)
        found = {self._covers(part, self.fact.ways) for part in parts}
        return found.pop() if len(found) == 1 else None

    def skips_experts(self, name: str) -> bool:
        """Whether all experts of a layer stay in 16 bits."""
        if self.fact.experts == "never":
            return False
        if self._covers(name, (*self.fact.ways, *self.fact.also)):
            return True
        return self.fact.experts == "any" and any(name in entry for entry in self.entries if "experts" in entry)

    def _covers(self, name: str, ways: tuple[Way, ...]) -> bool:
        return any(_covering(way, self.entries)(name) for way in ways)


def _renamed(name: str, rename: RenameFact | None) -> str:
    """The engine's name. Rules with a dot at their end fit a tensor's name, and no entry of a list that ends there."""
    for stored, engine in () if rename is None else rename.pieces:
        name = name.replace(stored, engine, 1)
    for stored, engine in () if rename is None else rename.prefixes:
        if name.startswith(stored):
            return engine + name[len(stored) :]
    return name


def reading_of(profile: Profile, stored: Stored) -> Reading | None:
    """The engine's reading of this checkpoint's list; None where it is not known."""
    fact = profile.formats.get(stored.format)
    if fact is None or fact.ignore is None:
        return None
    inner = stored.document.get("quantization")
    document = inner if isinstance(inner, Mapping) else stored.document
    own = None if isinstance(inner, Mapping) else dict(fact.ignore.flat).get(algo_of(stored.document) or "")
    keys = fact.ignore.keys if own is None else own
    lists = [value for key in keys if isinstance(value := document.get(key), list) and value]
    entries = list(chain.from_iterable(lists if fact.ignore.merged else lists[:1]))
    rename = next((fact for fact in profile.renames if stored.family in fact.families), None)
    named = [entry for entry in entries if isinstance(entry, str)]
    if fact.ignore.mapped:
        named = [entry if entry.startswith("re:") else _renamed(entry, rename) for entry in named]
    return Reading(fact=fact.ignore, entries=_once(frozenset(named)), rename=rename)


@lru_cache(maxsize=64)
def _once(entries: frozenset[str]) -> frozenset[str]:
    """Equal lists as one object: `_covering` looks them up for every module, and comparing long ones takes long."""
    return entries


def linears(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Layers that the engine quantizes and the checkpoint does not, or the other way round (F8L305)."""
    yield from (verdict for is_coarse, verdict in _found(profile, stored) if not is_coarse)


def granularity(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """The same where an entry names a fused layer, or single experts of a mixture (F8L307)."""
    yield from (verdict for is_coarse, verdict in _found(profile, stored) if is_coarse)


def _found(profile: Profile, stored: Stored) -> Sequence[tuple[bool, Verdict]]:
    """The disagreements of an engine's reading. Two rules and the portability line ask, and most versions of an engine
    read a list alike: each reading is tried once."""
    reading, model = reading_of(profile, stored), stored.checkpoint.model
    if reading is None or model is None or not stored.held:
        return ()
    if reading not in stored.disagreements:
        broken = tuple(_broken(reading, stored))
        stored.disagreements[reading] = broken or tuple(_disagreements(reading, stored, model))
    return stored.disagreements[reading]


def _broken(reading: Reading, stored: Stored) -> Iterator[tuple[bool, Verdict]]:
    """Entries that the engine compiles and that are no expressions; no dialect but compressed-tensors looks."""
    for entry in sorted(reading.entries) if "parent" in reading.fact.ways else ():
        try:
            checked([entry], stored.checkpoint.format.place)
        except ConfigError as error:
            problem = error.problem
            yield False, Verdict(
                text="stops at an entry of the ignore list that is no regular expression", file=problem.file,
                expected=problem.expected, got=problem.got, remedy=problem.hint,
            )  # fmt: skip


def _disagreements(reading: Reading, stored: Stored, model: Model) -> Iterator[tuple[bool, Verdict]]:
    experts = stored.experts
    for at, entry in model.entries():
        if isinstance(entry, Linear) and not _is_always_plain(entry):
            yield from _linear(reading, stored, at, entry)
        elif isinstance(entry, Experts) and at + entry.target in experts:
            infos = experts[at + entry.target]
            yield from ((True, verdict) for verdict in _mixture(reading, stored, at + entry.target, infos))
        elif isinstance(entry, Tower) and reading.rename is not None:
            yield from ((False, verdict) for verdict in _tower(reading, stored, at + entry.prefix))


def _tower(reading: Reading, stored: Stored, prefix: str) -> Iterator[Verdict]:
    """Layers of another part of the model, whose linear layers the family does not list: those that the list covers as
    it is written, and that the engine has another name for."""
    for name, info in stored.checkpoint.lowered.modules.items():
        own = reading.engine_name(name)
        is_renamed = name.startswith(f"{prefix}.") and own != name and _is_plain_linear(info)
        if is_renamed and not reading.skips(own, (own,)) and _are_ignored(stored, [info]):
            yield _verdict(stored, info, skipped=False)


def _is_plain_linear(info: ModuleInfo) -> bool:
    """Whether an unquantized weight may be a linear layer's: of two axes, and no table of positions or patches."""
    is_table = is_embedding(info.name) or info.name.rpartition(".")[2].endswith("_embed")
    return info.scheme is None and len(info.tensors[Role.WEIGHT].shape) == 2 and not is_table


def _is_always_plain(entry: Linear) -> bool:
    """Whether no engine quantizes the layer, listed or not."""
    return entry.free or is_router(entry.target) or entry.target.rpartition(".")[2] in UNLISTED


def _linear(reading: Reading, stored: Stored, at: str, entry: Linear) -> Iterator[tuple[bool, Verdict]]:
    modules = stored.checkpoint.lowered.modules
    fused = is_fused_on_disk(entry, at, modules)
    names = [at + entry.target] if fused else [at + part.module for part in entry.parts if part.module]
    members = [modules[name] for name in names if name in modules]
    states = {info.scheme is not None for info in members}
    if len(states) != 1:
        return
    own = reading.engine_name(at + entry.target)
    skipped = reading.skips(own, tuple(reading.engine_name(info.name) for info in members))
    is_quantized = states.pop()
    if skipped is not (not is_quantized):
        is_coarse = len(members) > 1 and at + entry.target in stored.checkpoint.format.ignore
        if is_coarse or is_quantized or _are_ignored(stored, members):
            listed = at + entry.target if is_coarse else ""
            yield from ((is_coarse, _verdict(stored, info, skipped=skipped, listed=listed)) for info in members)


def _are_ignored(stored: Stored, members: Sequence[ModuleInfo]) -> bool:
    """Whether the list covers all of them in the dialect's own reading: else nothing was said that could be lost."""
    return all(isinstance(stored.checkpoint.format.claim(info.name), Ignored) for info in members)


def _mixture(reading: Reading, stored: Stored, name: str, infos: Sequence[ModuleInfo]) -> Iterator[Verdict]:
    quantized = [info for info in infos if info.scheme is not None]
    skipped = reading.skips_experts(reading.engine_name(name))
    if quantized and skipped:
        yield from (_verdict(stored, info, skipped=True) for info in quantized)
    if not quantized and not skipped and _are_ignored(stored, infos):
        yield from (_verdict(stored, info, skipped=False) for info in infos)


def _verdict(stored: Stored, info: ModuleInfo, *, skipped: bool | None, listed: str = "") -> Verdict:
    """What the engine does with one layer; `listed` is the fused layer that the list names in place of its parts."""
    tensor, file = stored.stored_tensor(info, Role.WEIGHT)
    got = str(info.tensors[Role.WEIGHT])
    if skipped is None:
        return Verdict(text="takes some parts of this fused layer to be ignored and others not, and stops",
                       module=info.name, tensor=tensor, file=file, expected="all parts in the list, or none", got=got,
                       remedy="list every part of the layer by its full name")  # fmt: skip
    if skipped:
        return Verdict(text=f"takes this layer to be ignored: {DROPPED}", module=info.name, tensor=tensor, file=file,
                       expected="an ignore list that covers only what is stored in 16 bits", got=got,
                       remedy="write full names into the ignore list, and no single experts")  # fmt: skip
    return Verdict(text=f"does not take this layer to be ignored: {LOST}", module=info.name, tensor=tensor, file=file,
                   expected=f"{info.name} in the ignore list, which has {listed}" if listed
                   else "an entry of the ignore list that it matches", got=got,
                   remedy="list every part of the layer by its full name, as it is stored and as the engine calls it",
                   )  # fmt: skip
