"""GPUs and kernels; what trainers send; memory."""

from corpus.bases import DENSE
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, QUANTIZED, STATIC

LINEAR = "model.layers.0.mlp.down_proj"
SCALE = f"{LINEAR}.weight_scale_inv"
KV_A = BLOCK + (
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight F8_E4M3 [640, 256]\n"
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv F32 [5, 2]\n"
)
SMALL = STATIC + "m.fc2.weight F8_E4M3 [768, 16]\nm.fc2.{weight_scale,input_scale} F32 []\n"
WK = (
    BLOCK
    + QUANTIZED
    + (
        "model.layers.0.self_attn.indexer.wk.weight            F8_E4M3  [128, 256]\n"
        "model.layers.0.self_attn.indexer.wk.weight_scale_inv  F32      [1, 2]\n"
    )
)
GRID = BLOCK + QUANTIZED.replace("[256, 256]", "[2048, 4096]").replace("[2, 2]", "[16, 32]")

ROWS = (
    Row(
        number=155,
        thread="sglang#7715",
        what="Block FP8 on a GPU of a generation without FP8.",
        reads="P",
        twin=LLAMA,
        twin_arch="sm89",
        arch="sm86",
        codes=("F8T001",),
        subject="model.layers.0.self_attn.q_proj",
    ),
    Row(
        number=156,
        thread="vllm#47436",
        what="Block FP8 on an RTX 5090, for which the kernel that is chosen has no code.",
        reads="P",
        twin=LLAMA,
        twin_arch="sm90",
        arch="sm120",
        engine="vllm@0.33",
        codes=("F8T001",),
        subject=LINEAR,
        missed="which kernel vLLM takes on sm120 is not in its profile",
    ),
    Row(
        number=157,
        thread="vllm#47990",
        what="A matrix of 576 rows in blocks of 128, on an RTX 5090.",
        reads="P",
        twin=KV_A,
        changes=(("[640, 256]", "[576, 256]"),),
        arch="sm120",
        codes=("F8L505",),
        subject="kv_a_proj_with_mqa",
    ),
    Row(
        number=158,
        thread="TGI#2388",
        what="FP8 on an L4, where the engine takes a fallback that fails.",
        reads="P",
        twin=LLAMA,
        arch="sm89",
        codes=("F8T001",),
        subject=LINEAR,
        missed="the L4 has FP8, and no profile of TGI exists",
    ),
    Row(
        number=160,
        thread="ComfyUI#9263",
        what="FP8 on a Mac, whose GPU has no such dtype.",
        reads="P",
        twin=LLAMA,
        twin_arch="sm89",
        arch="mps",
        codes=("F8T001",),
        subject="no 8-bit floats",
    ),
    Row(
        number=162,
        thread="ColossalAI#6390",
        what="A matrix has 2 columns, and the kernel takes multiples of 16.",
        reads="P",
        twin=SMALL,
        changes=(("[768, 16]", "[768, 2]"),),
        arch="sm90",
        codes=("F8L505",),
        subject="m.fc2",
    ),
    Row(
        number=163,
        thread="vllm#45835",
        what="A trainer sends FP8 weights without their scales.",
        reads="P",
        twin=BLOCK + QUANTIZED,
        changes=(("model.layers.0.mlp.down_proj.weight_scale_inv  F32      [2, 2]\n", ""),),
        codes=("F8L201",),
        subject=f"{LINEAR}.weight",
    ),
    Row(
        number=165,
        thread="miles#1338",
        what="Scales are packed four to a word, in the layout of a kernel.",
        reads="P",
        twin=GRID,
        changes=(("F32      [16, 32]", "I32  [2048, 8]"),),
        codes=("F8L605", "F8L501", "F8L105"),
        subject=SCALE,
    ),
    Row(
        number=166,
        thread="vime#133",
        what="One engine's packed scales are sent to another.",
        reads="P",
        twin=GRID,
        changes=(("F32      [16, 32]", "I32  [16, 8]"),),
        codes=("F8L605", "F8L501", "F8L105"),
        subject=SCALE,
    ),
    Row(
        number=167,
        thread="prime-rl#3036",
        what="Scales are the words that an engine keeps, and not the grid of the checkpoint.",
        reads="P",
        twin=BLOCK + QUANTIZED.replace("[256, 256]", "[2624, 6144]").replace("[2, 2]", "[21, 48]"),
        changes=(("F32      [21, 48]", "I32  [2624, 12]"),),
        codes=("F8L605", "F8L501", "F8L105"),
        subject=SCALE,
    ),
    Row(
        number=168,
        thread="miles#2014",
        what="A BF16 weight was put where an FP8 one was, and the scale stayed.",
        reads="P",
        twin=WK,
        changes=(("wk.weight            F8_E4M3", "wk.weight            BF16"),),
        codes=("F8L201", "F8L302", "F8L202"),
        subject="model.layers.0.self_attn.indexer.wk",
    ),
    Row(
        number=173,
        thread="Automodel#2114",
        what="Each rank would hold the whole model dequantized.",
        twin=DENSE,
        changes=((DENSE, LLAMA),),
        tp=(2,),
        codes=("F8T002",),
        subject="on each rank, where a loader dequantizes to BF16 before it splits",
        noted="what a reader needs is no fault of the file",
    ),
    Row(
        number=175,
        thread="InvokeAI#9429",
        what="An FP8 file is dequantized to four times its size.",
        twin=DENSE,
        changes=((DENSE, LLAMA),),
        tp=(1,),
        codes=("F8T002",),
        subject=" to F32",
        noted="what a reader needs is no fault of the file",
    ),
    Row(
        number=176,
        thread="vllm#31624",
        what="A model takes minutes to load.",
        twin=LLAMA,
        codes=("F8T002",),
        subject="minutes",
        missed="the copies that are slow are the engine's; nothing of them is in the file",
    ),
)
