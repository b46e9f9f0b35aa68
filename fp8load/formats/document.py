"""From a parsed JSON document to a validated pydantic model, with our own errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import Located

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], located: Located) -> Model:
    """`located.document` as `model`. Raises `ConfigError` that names the key, what is allowed and what stands there."""
    try:
        return model.model_validate(dict(located.document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = Problem(
            code="F8L107",
            message=f"the quantization configuration has a value that is not known: {key}",
            file=located.place,
            expected=first["msg"].removeprefix("Value error, "),
            got=repr(first["input"])[:120],
            hint="if the key is right, this version of fp8load does not know the value yet: please report it",
        )
        raise ConfigError(problem) from error


def flattened(document: Mapping[str, Any]) -> dict[str, Any]:
    """A ModelOpt configuration as config.json holds it: hf_quant_config.json nests most keys under `quantization`."""
    nested = document.get("quantization")
    if not isinstance(nested, Mapping):
        return dict(document)
    return {**{key: value for key, value in document.items() if key != "quantization"}, **nested}
