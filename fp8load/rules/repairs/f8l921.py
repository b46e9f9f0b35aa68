"""F8L921: a head that is the embedding once more is dropped, and a quantized one is dequantized."""

from collections.abc import Iterator

from fp8load.errors import Problem
from fp8load.formats.match import is_embedding
from fp8load.index.index import TensorMeta
from fp8load.rules.base import Context, Repair
from fp8load.rules.config import flag
from fp8load.rules.repairs.dequantized import LOSSY, dequantized
from fp8load.source.base import Source
from fp8load.writing.actions import Drop, Edit, Remake, Rename
from fp8load.writing.shard import pieces


def actions(context: Context, problem: Problem) -> Iterator[Drop | Edit | Remake | Rename]:
    """A tied head with other numbers than the embedding stays: nobody can say which of the two is meant."""
    head = context.checkpoint.index.tensors.get(problem.tensor)
    if head is None:
        return
    if not head.dtype.is_wide_float:
        yield from dequantized(context, head.name.rpartition(".")[0])
    elif any(_same(context.checkpoint.source, head, table) for table in _tables(context, head)):
        yield Drop(head)


def _may(context: Context, problem: Problem) -> bool:
    head = context.checkpoint.index.tensors.get(problem.tensor)
    if head is None:
        return False
    if not head.dtype.is_wide_float:
        return next(dequantized(context, head.name.rpartition(".")[0]), None) is not None
    return bool(_tables(context, head))


def _tables(context: Context, head: TensorMeta) -> list[TensorMeta]:
    """Embeddings of the head's dtype and shape, where the two are tied."""
    index = context.checkpoint.index
    if not flag(index.config, "tie_word_embeddings"):
        return []
    tables = [meta for name, meta in index.tensors.items() if is_embedding(name.removesuffix(".weight"))]
    return [table for table in tables if (table.dtype, table.shape) == (head.dtype, head.shape)]


def _same(source: Source, one: TensorMeta, other: TensorMeta) -> bool:
    return all(a == b for a, b in zip(pieces(source, one), pieces(source, other), strict=True))


REPAIR = Repair(
    title="drops a head that equals the embedding, and dequantizes a quantized one",
    actions=actions,
    only_if=LOSSY,
    reads=True,
    may=_may,
    unless="its numbers are not those of the embedding, and nobody can say which are meant",
)
