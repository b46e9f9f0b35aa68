"""YAML as JSON has it: objects, lists, text, numbers. For llm-compressor's recipe.yaml, the only file of that kind."""

from __future__ import annotations

from typing import Any

CAP = 200_000
"""Largest file that is read: recipes have a few hundred bytes, and a parser written in Python takes its time."""


def read_yaml(data: bytes) -> Any:
    """The one document in `data`.

    Raises `ValueError` for what is no YAML, for aliases, which let a small file stand for a huge document, for the
    same key twice, and for values that JSON has not (dates, sets, bytes).
    """
    import yaml  # the parser that huggingface_hub reads model cards with

    try:
        loader = yaml.SafeLoader(data.decode("utf-8"))  # the one that is written in C has no end to its recursion
        try:
            node = loader.get_single_node()
            _check(node, set())
            return _plain(None if node is None else loader.construct_document(node))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _check(node: Any, seen: set[int]) -> None:
    """Raises `ValueError` for a node that stands in two places, and for a key that an object has twice."""
    if node is None or isinstance(node.value, str):
        return
    if id(node) in seen:
        raise ValueError(f"an alias of what begins in line {node.start_mark.line + 1}")
    seen.add(id(node))
    keys: set[str] = set()
    for child in node.value:
        if not isinstance(child, tuple):
            _check(child, seen)
            continue
        key, value = child
        if isinstance(key.value, str) and key.value in keys:
            raise ValueError(f"the key {key.value} twice, line {key.start_mark.line + 1}")
        if isinstance(key.value, str):
            keys.add(key.value)
        _check(value, seen)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"a value that JSON has not: {type(value).__name__}")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    raise ValueError(f"a key that is no text: {key!r}")
