"""The ways in which dialects say which modules an entry of a list means."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from fp8load.errors import ConfigError, Problem

EMBEDDING_NAMES = frozenset({
    "embed_tokens", "word_embeddings", "wte", "wpe", "tok_embeddings", "embed", "embeddings", "embed_positions",
    "position_embedding", "patch_embedding", "embedding", "embed_tokens_per_layer",
    "ngram_embedding", "pos_embed",
})  # fmt: skip
"""Last components of embeddings: two-dimensional weights that are no linear layer. Never substrings."""


def is_embedding(module: str) -> bool:
    """Whether a module is an embedding, by the last component of its name."""
    return module.rpartition(".")[2] in EMBEDDING_NAMES


ROUTER_NAMES = frozenset({"gate", "router", "shared_expert_gate", "wg"})
"""Last components of routers and of gates of shared experts. Never substrings: `gate_proj` is a linear layer."""


def is_router(module: str) -> bool:
    """Whether a module is a router, or a part of one ("router.layer"): a matrix that tools and engines leave in 16 bits
    whether a list names it or not, because most models hold it as a parameter and not as a linear layer."""
    parent, _, last = module.rpartition(".")
    return last in ROUTER_NAMES or parent.rpartition(".")[2] == "router"


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def checked(entries: Iterable[str], place: str) -> tuple[str, ...]:
    """The entries of a list, each `re:` among them a valid expression. Raises `ConfigError` that names the entry."""
    listed = tuple(entries)
    for entry in listed:
        try:
            _compiled(entry[3:] if entry.startswith("re:") else "")
        except re.error as error:
            raise ConfigError(Problem(
                code="F8L107", message="an entry of a module list is not a valid regular expression", file=place,
                expected="re: and a Python regular expression", got=f"{entry}: {error}",
                hint="correct the expression, or write the modules' names without re:",
            )) from error  # fmt: skip
    return listed


def exact_or_regex(entry: str, module: str) -> bool:
    """compressed-tensors: the full name, or `re:` and a regular expression that must match from the name's start."""
    if entry.startswith("re:"):
        return _compiled(entry[3:]).match(module) is not None
    return entry == module


def component_run(entry: str, module: str) -> bool:
    """Whole components that stand next to each other in the name: "gate" and "mlp.gate" cover "layers.3.mlp.gate".

    The reading under which both lists of full names (Qwen, GLM) and lists of bare names (MiniMax) mean what their
    authors meant; a plain substring would make "gate" cover "gate_proj".
    """
    return entry == module or f".{entry}." in f".{module}."


def glob_or_prefix(entry: str, module: str) -> bool:
    """ModelOpt: a shell glob over the whole name ("model.layers.1.*"), the name itself, or a parent of the module."""
    return fnmatch.fnmatchcase(module, entry) or module.startswith(f"{entry}.")


def substring(entry: str, module: str) -> bool:
    """How transformers reads an entry of the fp8 list, and vLLM one of ModelOpt's: "vision" covers "vision_tower".

    Too wide to decide what is quantized ("gate" would cover "gate_proj"); enough to explain what is not.
    """
    return bool(entry) and entry in module


_PLAIN = re.compile(r"[\w-]+(?:\.[\w-]+)*")


def first_cover(entries: Iterable[str], covers: Callable[[str, str], bool]) -> Callable[[str], str | None]:
    """A function from a module to an entry that covers it: literal names before patterns.

    Lists of thousands of literal names meet tens of thousands of modules, so these are looked up and not searched: in
    every dialect above, one covers a module only where its components stand in the module's name.
    """
    listed = dict.fromkeys(entries)
    plain = {entry for entry in listed if _PLAIN.fullmatch(entry)}
    patterns = tuple(entry for entry in listed if entry not in plain)
    firsts = {entry.partition(".")[0] for entry in plain}
    lasts = {entry.rpartition(".")[2] for entry in plain}

    if not listed:
        return lambda _module: None

    def find(module: str) -> str | None:
        if module in listed:
            return module
        components = module.split(".")
        ends = [at for at, component in enumerate(components, start=1) if component in lasts]
        for begin, component in enumerate(components if ends else ()):
            if component in firsts:
                runs = (".".join(components[begin:end]) for end in ends if end > begin)
                found = next((run for run in runs if run in plain and covers(run, module)), None)
                if found is not None:
                    return found
        return next((entry for entry in patterns if covers(entry, module)), None)

    return find
