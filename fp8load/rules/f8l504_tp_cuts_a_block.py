"""F8L504: a layer cannot be split over a number of ranks."""

from collections.abc import Iterator
from dataclasses import replace

from fp8load.engines.blocks import refines
from fp8load.errors import Problem, Severity
from fp8load.plan.sizes import refusals
from fp8load.rules.base import Context, Example, Rule
from fp8load.rules.fused import can_be_planned
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_ATTENTION, LLAMA_CONFIG, LLAMA_MLP, LLAMA_REST
from fp8load.rules.targets import both, engines

COMMON = (2, 4, 8)
HALF = (
    LLAMA_CONFIG.replace('"num_attention_heads": 2, "num_key_value_heads": 2', '"num_attention_heads": 4, '
                         '"num_key_value_heads": 3, "head_dim": 64')
    + BLOCK
    + LLAMA_ATTENTION.replace("{q,k,v,o}", "{q,o}")
    + LLAMA_ATTENTION.replace("{q,k,v,o}", "{k,v}").replace("[256, 256]", "[192, 256]")
    + LLAMA_MLP
    + LLAMA_REST
)  # fmt: skip
UNLOADABLE = "no size works, not even 1; `Checkpoint.plain_tensors` gives the unquantized checkpoint"


def check(context: Context) -> Iterator[Problem]:
    """For sizes that were asked for each layer that refuses; else a note where a common size does not work."""
    checkpoint = context.checkpoint
    model, lowered = checkpoint.model, checkpoint.lowered
    if model is None or not can_be_planned(checkpoint):
        return
    legal = checkpoint.legal_tp()
    if not legal:
        yield from (replace(problem, hint=UNLOADABLE) for problem in refusals(model, lowered, 1))
        return
    hint = f"tp sizes that work for every layer: {', '.join(map(str, legal))}"
    for size in context.tp or ():
        yield from (_for_engines(context, problem, size, hint) for problem in refusals(model, lowered, size))
    if context.tp is not None:
        return
    refused = [size for size in COMMON if size not in legal]
    if refused:
        first = next(refusals(model, lowered, refused[0]))
        yield Problem(
            code="F8L504", message=f"the model cannot be split over tp={', '.join(map(str, refused))}",
            tensor=first.tensor, module=first.module, file=first.file, expected=first.expected, got=first.got,
            severity=Severity.INFO, refuses=False, hint=f"{hint}; the largest is {legal[-1]}",
        )  # fmt: skip


def _for_engines(context: Context, problem: Problem, size: int, hint: str) -> Problem:
    """A refusal, which is none where all named engines refine the blocks of experts."""
    if (
        context.engines
        and ".experts." in problem.module
        and refines(context.engines, context.checkpoint.stored, problem.module, size)
    ):
        named = ", ".join(map(str, context.engines))
        return replace(problem, severity=Severity.INFO, refuses=False,
                       hint=f"{named} refines the blocks of experts to smaller ones")  # fmt: skip
    return replace(problem, hint=hint)


RULE = Rule(
    code="F8L504",
    name="tp-cuts-a-block",
    level="headers",
    severity=Severity.ERROR,
    what="With --tp, every layer splits into whole heads and whole blocks. Without it, common sizes that refuse are "
         "noted. Parts that lie in groups of rows on disk do not share a block of scales. With --engine, fused layers "
         "and experts are split as that engine does it.",
    why="A rank whose share ends inside a block needs the scale of a block that another rank has.",
    fix="Use one of the sizes that the finding lists.",
    check=both(check, engines("F8L504")),
    examples=(
        Example(title="two heads over four ranks: q, and with it qkv and o; two blocks of the head", count=2,
                skeleton=LLAMA, tp=(4,)),
        Example(title="over two ranks", skeleton=LLAMA, count=0, tp=(2,)),
        Example(title="k ends inside a block, in an engine whose parts share it", skeleton=HALF, count=1, tp=(1,),
                engine="vllm@0.33"),
        Example(title="in one that refuses k and v", skeleton=HALF, count=2, tp=(1,), engine="sglang@0.5.23"),
        Example(title="whole blocks", skeleton=LLAMA, count=0, tp=(1,), engine="vllm@0.33"),
    ),
)  # fmt: skip
