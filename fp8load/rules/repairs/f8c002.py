"""F8C002: the metadata of a ComfyUI file names its layers as the tensors are named."""

import json
from collections.abc import Iterator
from typing import Any

from fp8load.errors import Problem, Severity
from fp8load.formats.inside import prefix_between
from fp8load.index.embedded import METADATA, METADATA_KEY
from fp8load.rules.base import Context, Repair
from fp8load.writing.actions import SetMetadata


def actions(context: Context, problem: Problem) -> Iterator[SetMetadata]:
    """A prefix that no tensor has is taken off. One that only the tensors have stays: loaders strip it from both."""
    index = context.checkpoint.index
    if problem.severity is Severity.INFO:
        return
    modules = {name.removesuffix(".weight") for name in index.tensors if name.endswith(".weight")}
    _, drop = prefix_between(index.embedded.get(METADATA, {}), modules)
    for file in index.files.values():
        text = file.metadata.get(METADATA_KEY)
        if text is not None and drop:
            document: dict[str, Any] = json.loads(text)
            document["layers"] = {name.removeprefix(drop): said for name, said in document["layers"].items()}
            yield SetMetadata(file.name, METADATA_KEY, json.dumps(document))


REPAIR = Repair(title="names the layers as the tensors are named", actions=actions)
