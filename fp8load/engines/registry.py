"""Which profiles there are, and which of them `--engine vllm@0.33` means."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from fp8load.engines.profile import Profile
from fp8load.errors import Problem, UsageError
from fp8load.patterns import natural_key


@cache
def profiles() -> tuple[Profile, ...]:
    """Every profile, by engine, the newest version of each last."""
    folder = files("fp8load.engines") / "data"
    texts = (entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    read = [Profile.model_validate(tomllib.loads(text)) for text in texts]
    return tuple(sorted(read, key=lambda profile: (profile.engine, natural_key(profile.versions[0]))))


def newest() -> tuple[Profile, ...]:
    """The newest version of each engine."""
    return tuple({profile.engine: profile for profile in profiles()}.values())


def find_profiles(specs: str | Iterable[str]) -> tuple[Profile, ...]:
    """The profiles that are asked for, each once, in the order asked."""
    asked = [specs] if isinstance(specs, str) else list(specs)
    return tuple({profile.spec: profile for profile in map(find_profile, asked)}.values())


def find_profile(spec: str) -> Profile:
    """The profile of "vllm@0.33", or of the newest version where only "vllm" is said; "==" does for "@".

    Raises `UsageError` that names the nearest for an engine or a version without a profile.
    """
    name, _, version = spec.strip().replace("==", "@").partition("@")
    held = [profile for profile in profiles() if name.lower() in (profile.engine, *profile.aliases)]
    if not held:
        raise _no_such("engine", name, {alias for one in profiles() for alias in (one.engine, *one.aliases)},
                       sorted({one.engine for one in profiles()}),
                       "without --engine, findings hold for every reader")  # fmt: skip
    if not version:
        return held[-1]
    wanted = version.lower().removeprefix("v")
    for profile in held:
        if any(wanted == known or wanted.startswith((f"{known}.", f"{known}+")) for known in profile.versions):
            return profile
    known = [known for profile in held for known in profile.versions]
    raise _no_such(f"version of {held[-1].title}", version, set(known), known,
                   f"what another version does is not known; {name} alone means {held[-1].versions[0]}")  # fmt: skip


def _no_such(what: str, got: str, known: set[str], listed: list[str], else_hint: str) -> UsageError:
    near = get_close_matches(got.lower(), sorted(known), 2, cutoff=0.3)
    hint = f"did you mean {' or '.join(near)}?" if near else else_hint
    return UsageError(Problem(code="USE022", message=f"no profile of this {what}", got=got or "nothing", hint=hint,
                              expected=f"one of {', '.join(listed)}"))  # fmt: skip
