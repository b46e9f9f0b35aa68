"""F8L911: the number of layers for multi-token prediction becomes that of the stored ones."""

from collections.abc import Iterator, Mapping

from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.config import TEXT_KEYS
from fp8load.rules.mtp import COUNTS, MtpNames
from fp8load.writing.actions import Edit


def actions(context: Context, _problem: Problem) -> Iterator[Edit]:
    """Under every key that says a number, wherever it stands: readers differ in which one they take."""
    index = context.checkpoint.index
    layer_of = MtpNames(index.config).layer
    layers = {layer for name in index.declared or index.tensors if (layer := layer_of(name)) is not None}
    numbered = {layer for layer in layers if layer.rpartition(".")[2].isdigit()}
    count = len(numbered) or len(layers)  # "mtp" alone, beside "mtp.0", is what its layers share
    for path in ((), *((key,) for key in TEXT_KEYS)):
        document = index.config if not path else index.config.get(path[0])
        declared = [key for key in COUNTS if type(document.get(key)) is int] if isinstance(document, Mapping) else []
        yield from (Edit("config.json", (*path, key), "set", count) for key in declared)


REPAIR = Repair(
    title="writes the number of layers that are stored", actions=actions,
    only_if="the layers may be what is missing, or the number may turn them off on purpose",
)  # fmt: skip
