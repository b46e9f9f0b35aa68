"""Rows whose checkpoints are right, rebuilt: the fault is one reader's, and nothing may be said of the checkpoint."""

from corpus.bases import CT_CHANNEL, DENSE, FORMS, NVFP4, config, ct, modelopt
from corpus.diffusion import LEGACY, MARKED
from corpus.kv import USUAL
from corpus.row import Row
from corpus.targets import ATTENTION, PARTS
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_CONFIG, LLAMA_REST, POWERS, QUANTIZED, STATIC, TENSOR_WISE

DOWN = "model.layers.0.mlp.down_proj"
TRUNK = config(num_hidden_layers=1, num_nextn_predict_layers=1)
MODELOPT = (
    LLAMA_CONFIG
    + modelopt("FP8", "lm_head", *PARTS)
    + ATTENTION
    + """\
model.layers.0.mlp.{gate,up}_proj.weight                           F8_E4M3  [512, 256]
model.layers.0.mlp.down_proj.weight                                F8_E4M3  [256, 512]
model.layers.0.mlp.{gate,up,down}_proj.{weight_scale,input_scale}  F32      []
"""
    + LLAMA_REST
)
NO_V = "model.layers.2.self_attn.{q,k}_proj.weight  F8_E4M3  [256, 256]\n"
FUSED_A = BLOCK + (
    "model.layers.0.self_attn.q_a_proj.weight                      F8_E4M3  [2048, 128]\n"
    "model.layers.0.self_attn.q_a_proj.weight_scale_inv            F32      [16, 1]\n"
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight            F8_E4M3  [576, 128]\n"
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv  F32      [5, 1]\n"
)
DRAFT = (
    "mtp.fc.weight                           BF16  [256, 512]\n"
    "mtp.layers.0.self_attn.o_proj.weight    BF16  [256, 256]\n"
)
CT_PACKED = (
    "model.layers.0.mlp.{gate,up}_proj.weight_packed        U8       [256, 128]\n"
    "model.layers.0.mlp.{gate,up}_proj.weight_scale         F8_E4M3  [256, 16]\n"
    "model.layers.0.mlp.{gate,up}_proj.weight_global_scale  F32      [1]\n"
)
EH_PROJ = "model.layers.1.eh_proj.weight BF16 [256, 512]\n"
FOUR = (
    "model.layers.0.mlp.{gate,up}_proj.weight                        U8       [256, 128]\n"
    "model.layers.0.mlp.{gate,up}_proj.weight_scale                  F8_E4M3  [256, 16]\n"
    "model.layers.0.mlp.{gate,up}_proj.{weight_scale_2,input_scale}  F32      []\n"
)

ROWS = (
    Row(
        number=36,
        thread="trtllm#15123",
        what="One static scale a tensor, and no block size: an older reader takes it for blocks of 128.",
        twin=STATIC + TENSOR_WISE,
        codes=("F8L107",),
        subject="model.layers.0.self_attn.q_proj.weight",
        missed="the checkpoint is right; the profile of TensorRT-LLM is of a later version, which loads it",
    ),
    Row(
        number=44,
        thread="abliterix#93",
        what="DeepSeek-V4 calls its block scales scale, which a tool did not know.",
        twin=(FORMS / "deepseek-v4.skel").read_text(),
        codes=("F8L203", "F8L201"),
        subject="layers.0.attn.wq_a.scale",
        missed="the name is the format's own, and no profile of abliterix exists",
    ),
    Row(
        number=45,
        thread="unsloth#6200",
        what="A loader drops the scales of gate_proj as keys that it does not expect.",
        reads="P",
        twin=LLAMA,
        codes=("F8L201", "F8L208"),
        subject="model.layers.0.mlp.gate_proj.weight_scale_inv",
        missed="the checkpoint has them, and no profile of Unsloth exists",
    ),
    Row(
        number=62,
        thread="llama.cpp#22346",
        what="A build of the converter has no name for input_scale.",
        reads="P",
        twin=MODELOPT,
        engine="llama.cpp",
        codes=("F8T003",),
        subject=f"{DOWN}.input_scale",
        missed="the profile of llama.cpp is of another build, which reads ModelOpt's input scales",
    ),
    Row(
        number=86,
        thread="vllm#53996",
        what="A layer has no v, which a check of the engine took for a layer that is quantized in part.",
        twin=CT_CHANNEL + NO_V + "model.layers.2.self_attn.{q,k}_proj.weight_scale  BF16  [256, 1]\n",
        codes=("F8L306",),
        subject="model.layers.2.self_attn",
        missed="a layer without v is right; the alarm was false",
    ),
    Row(
        number=96,
        thread="trtllm#16867",
        what="A layer has no v: the engine makes its weight from k's, and does not do so with the scales.",
        twin=STATIC + TENSOR_WISE + NO_V + "model.layers.2.self_attn.{q,k}_proj.{weight_scale,input_scale}  F32  []\n",
        codes=("F8L306",),
        subject="model.layers.2.self_attn",
        missed="a layer without v is right; how TensorRT-LLM makes one is not in its profile",
    ),
    Row(
        number=98,
        thread="sglang#35032",
        what="The block scales of all experts are one tensor, and the loader asks for those of each expert.",
        twin=modelopt("NVFP4")
        + """\
model.layers.0.mlp.experts.down_proj                                    U8       [4, 64, 192]
model.layers.0.mlp.experts.down_proj_weight_scale                       F8_E4M3  [4, 8, 192]
model.layers.0.mlp.experts.down_proj_{weight_scale_2,input_scale}       F32      [4]
""",
        codes=("F8L404", "F8L501", "F8L209"),
        subject="down_proj_weight_scale",
        missed="the checkpoint is NVIDIA's own form; the layouts that SGLang knows of Llama 4 are not in its profile",
    ),
    Row(
        number=104,
        thread="vllm-ascend#15346",
        what="576 rows are fused behind 2048, and the engine counts their blocks by a division that rounds down.",
        twin=FUSED_A,
        codes=("F8L405",),
        subject="kv_a_proj_with_mqa",
        missed="a partial block at the end of a fused layer is right, and no profile of vllm-ascend exists",
    ),
    Row(
        number=106,
        thread="compressed-tensors#547",
        what="A tool refuses to quantize 4544 rows in blocks of 128.",
        twin=BLOCK + QUANTIZED.replace("[256, 256]", "[4544, 256]").replace("[2, 2]", "[36, 2]"),
        codes=("F8L501",),
        subject=f"{DOWN}.weight_scale_inv",
        missed="a partial block at the end is right; the tool wrote nothing that could be looked at",
    ),
    Row(
        number=111,
        thread="LTX-2#205",
        what="A reader's layer wants a weight as [in, out], and it is stored as [out, in].",
        reads="P",
        twin=MARKED,
        codes=("F8L506",),
        subject="model.diffusion_model.blocks.0.mlp.weight",
        missed="[out, in] is how weights are stored, and no profile of LTX-2 exists",
    ),
    Row(
        number=119,
        thread="sglang#38446",
        what="Scales are bytes of exponents, and the engine's conversion for MI300 drops the mark that says so.",
        reads="P",
        twin=POWERS + QUANTIZED.replace("F32    ", "F8_E8M0"),
        engine="sglang@0.5.23",
        arch="gfx942",
        codes=("F8L603",),
        subject=f"{DOWN}.weight_scale_inv",
        missed="the checkpoint has the mark; that the conversion drops it is not in the profile of SGLang",
    ),
    Row(
        number=133,
        thread="sglang#28806",
        what="An engine is told --quantization w8a8_int8 for a model that is not quantized.",
        reads="P",
        twin=DENSE,
        codes=("F8L102",),
        subject=DOWN,
        missed="the checkpoint is a right one in 16 bits; what an engine is started with is not known",
    ),
    Row(
        number=137,
        thread="sglang#3936",
        what="KV scales have their usual names, for which the model has no parameter.",
        reads="P",
        twin=USUAL,
        engine="sglang@0.5.4",
        codes=("F8L902",),
        subject="model.layers.0.self_attn.k_scale",
        missed="SGLang 0.5.4 reads them, and no profile is of an older one",
    ),
    Row(
        number=147,
        thread="sglang#35797",
        what="Matrices of the draft layer are listed one by one, and the draft model does not look at the list.",
        reads="P",
        twin=TRUNK
        + ct(NVFP4, format="nvfp4-pack-quantized", ignore=["lm_head", "mtp.fc", "mtp.layers.0.self_attn.o_proj"])
        + CT_PACKED
        + DRAFT,
        engine="sglang@0.5.23",
        codes=("F8L912", "F8L302"),
        subject="mtp.layers.0.self_attn.o_proj",
        missed="the list is right; that SGLang's draft model passes over it is not in its profile",
    ),
    Row(
        number=149,
        thread="vllm#44087",
        what="The draft layers are in 16 bits and listed, and the list does not reach the draft model.",
        reads="P",
        twin=TRUNK
        + modelopt("NVFP4", "model.layers.1.eh_proj")
        + FOUR
        + "model.layers.1.eh_proj.weight BF16 [256, 512]\n",
        engine="vllm@0.33",
        codes=("F8L912", "F8L302"),
        subject="model.layers.1.eh_proj",
        missed="the list is right; what vLLM's draft model makes of it is not in its profile",
    ),
    Row(
        number=178,
        thread="ComfyUI#11310",
        what="The marker of the older dialect is left over when a newer program has converted the file.",
        twin=LEGACY,
        codes=("F8C001",),
        subject="scaled_fp8",
        missed="the file is right in its dialect, and no profile of ComfyUI exists",
    ),
    Row(
        number=179,
        thread="ComfyUI#11502",
        what="Each layer has the marker of the newer dialect, which an older program does not expect.",
        twin=MARKED,
        codes=("F8C001",),
        subject="comfy_quant",
        missed="the file is right in its dialect, and no profile of ComfyUI exists",
    ),
    Row(
        number=181,
        thread="sd.cpp#1898",
        what="A program does not apply the scales, whichever of two names they have.",
        reads="P",
        twin=LEGACY,
        codes=("F8C001", "F8L203"),
        subject="model.diffusion_model.blocks.0.mlp",
        missed="the file is right, and no profile of stable-diffusion.cpp exists",
    ),
    Row(
        number=182,
        thread="LTX-2#172",
        what="A program casts the weights and leaves out their scales.",
        reads="P",
        twin=MARKED,
        codes=("F8L201",),
        subject="model.diffusion_model.blocks.0.mlp",
        missed="the file has them, and no profile of LTX-2 exists",
    ),
    Row(
        number=183,
        thread="diffusion-pipe#381",
        what="A reader takes scales of one number for empty ones, and asks which dialect this is.",
        twin=LEGACY,
        codes=("F8C001",),
        subject="scale_weight",
        missed="the file is right; `fp8load inspect` names its dialect",
    ),
)
