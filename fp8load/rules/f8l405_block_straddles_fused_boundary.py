"""F8L405: a member of a fused layer ends inside a block, and another member follows."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from fp8load.archs.base import Linear
from fp8load.archs.model import is_fused_on_disk
from fp8load.errors import Problem, Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.config import number
from fp8load.rules.fused import in_order
from fp8load.rules.samples import BLOCK
from fp8load.scheme import PerBlock, Role

if TYPE_CHECKING:
    from fp8load.checkpoint import Checkpoint

ATTENTION = """\
model.layers.0.self_attn.q_a_proj.weight                      F8_E4M3  [%d, 256]
model.layers.0.self_attn.q_a_proj.weight_scale_inv            F32      [%d, 2]
model.layers.0.self_attn.kv_a_proj_with_mqa.weight            F8_E4M3  [576, 256]
model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv  F32      [5, 2]
"""
UNKNOWN = (
    'config {"model_type": "some_new_model", "hidden_size": %s, "num_attention_heads": 4, "num_key_value_heads": 2}\n'
    + BLOCK
    + "model.layers.0.self_attn.qkv_proj.weight F8_E4M3 [%s, 256]\n"
    + "model.layers.0.self_attn.qkv_proj.weight_scale_inv F32 [%s, 2]\n"
)


def check(context: Context) -> Iterator[Problem]:
    """Members that are stored one by one, and parts of a tensor that is stored fused where the family says its rows."""
    for group in context.checkpoint.stored.fused:
        if not group.fused_on_disk:
            for info in in_order(group)[:-1]:
                yield from _partial(info, info.tensors[Role.WEIGHT].shape[0])
    yield from _fused_on_disk(context.checkpoint)
    for group in context.checkpoint.stored.fused:
        if group.fused_on_disk and group.by_name:
            info = group.members[0]
            ends = _ends_by_name(group.name, info.tensors[Role.WEIGHT].shape[0], context.checkpoint.index.config)
            cut = next((end for end in ends if _block_rows(info, end)), None)
            if cut is not None:
                yield from _partial(info, cut)


def _ends_by_name(name: str, num_rows: int, config: Mapping[str, Any]) -> list[int]:
    """Where the parts but the last end in a tensor of a family that is not known: gate and up are halves; q, k and v
    follow the heads of the configuration, where these add up to the rows. Nothing where that is not so."""
    last = name.rpartition(".")[2]
    if last in ("gate_up_proj", "w13"):
        return [num_rows // 2] if num_rows % 2 == 0 else []
    if last != "qkv_proj":  # others are in the order of groups in some families
        return []
    heads, hidden = number(config, "num_attention_heads") or 0, number(config, "hidden_size") or 0
    size = number(config, "head_dim") or (hidden // heads if heads else 0)
    q, k = heads * size, (number(config, "num_key_value_heads") or heads) * size
    return [q, q + k] if q and q + 2 * k == num_rows else []


def _fused_on_disk(checkpoint: "Checkpoint") -> Iterator[Problem]:
    model, modules = checkpoint.model, checkpoint.lowered.modules
    for at, entry in model.entries() if model is not None else ():
        if model is None or not isinstance(entry, Linear) or len(entry.parts) < 2:
            continue
        if is_fused_on_disk(entry, at, modules):
            num_groups = model.sizes.of(entry.groups) if entry.groups is not None else 1
            ends = accumulate(model.sizes.of(part.rows) // num_groups for part in entry.parts[:-1])
            cut = next((end for end in ends if _block_rows(modules[at + entry.target], end)), None)
            if cut is not None:
                yield from _partial(modules[at + entry.target], cut)


def _block_rows(info: ModuleInfo, num_rows: int) -> int:
    """Rows of a block that `num_rows` rows end in; 0 where they end with it, or where there are no blocks."""
    granularity = info.scheme.weight.granularity if info.scheme is not None else None
    if not isinstance(granularity, PerBlock) or num_rows % granularity.rows == 0:
        return 0
    return granularity.rows


def _partial(info: ModuleInfo, num_rows: int) -> Iterator[Problem]:
    block = _block_rows(info, num_rows)
    if block:
        weight = info.tensors[Role.WEIGHT]
        yield Problem(
            code="F8L405", message="a part of a fused layer ends inside a block of scales", tensor=weight.name,
            file=weight.file, expected=f"rows of each part but the last in whole blocks of {block}",
            got=f"{num_rows:,} rows = {num_rows / block:g} blocks", severity=Severity.INFO, refuses=False,
            hint="fp8load keeps the parts' scales apart; engines that count blocks of the fused layer lose a row",
        )  # fmt: skip


RULE = Rule(
    code="F8L405",
    name="block-straddles-fused-boundary",
    level="headers",
    severity=Severity.INFO,
    what="Notes parts of layers that engines fuse whose rows are no whole number of blocks, but for the last part.",
    why="Put one after the other, such parts have more rows of scales than the fused layer has blocks. An engine that "
        "divides loses one, and every row behind it has the scale of another block.",
    fix="Nothing in the checkpoint; choose a reader that keeps the parts' scales apart.",
    check=check,
    examples=(
        Example(title="q_a has 1,600 rows, kv_a follows", skeleton=BLOCK + ATTENTION % (1600, 13), count=1),
        Example(title="qkv in one tensor, of a family that is not known", skeleton=UNKNOWN % (320, 640, 5), count=1),
        Example(title="heads that do not add up to the rows", skeleton=UNKNOWN % (320, 768, 6), count=0),
        Example(title="parts of whole blocks", skeleton=UNKNOWN % (512, 1024, 8), count=0),
        Example(title="only the last part is partial", skeleton=BLOCK + ATTENTION % (1536, 12), count=0),
    ),
)  # fmt: skip
