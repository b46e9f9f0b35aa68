"""Keys of config.json, where multimodal models keep those of the language model one level down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEXT_KEYS = ("text_config", "language_config", "llm_config")


def documents(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """config.json, and the language model's part of it."""
    yield config
    yield from (part for key in TEXT_KEYS if isinstance(part := config.get(key), Mapping))


def flag(config: Mapping[str, Any], key: str) -> bool:
    """Whether a key is true in either place."""
    return any(document.get(key) is True for document in documents(config))


def number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these keys that holds a number, the language model's before the whole's; None without one."""
    for document in reversed(list(documents(config))):
        for key in keys:
            value = document.get(key)
            if type(value) is int:
                return value
    return None
