"""Files, index, cache."""

from hashlib import sha256
from random import Random

from corpus.bases import DENSE, INDEX, config, file_of, headed, index_of, indexed, placed
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, NVFP4, NVFP4_GATE_UP, QUANTIZED
from fp8load.source.published import METADATA
from rules.examples import written

TWO = LLAMA.replace("[1024, 256]", "[1024, 256]  @ model-00002-of-00002.safetensors").replace(
    "[512, 256]", "[512, 256]  @ model-00001-of-00002.safetensors"
)
FILE = "model.safetensors"
LINEAR = "model.layers.0.mlp.down_proj"
NAMES = f"{LINEAR}.weight {LINEAR}.weight_scale_inv"
SHARDS = BLOCK + "".join(
    f"model.layers.{layer}.mlp.down_proj.{tensor}  @ model-0000{layer + 1}-of-00004.safetensors\n"
    for layer in range(4)
    for tensor in ("weight F8_E4M3 [256, 256]", "weight_scale_inv F32 [2, 2]")
)
SHARDS_IN_ONE = BLOCK + QUANTIZED.replace("layers.0", "layers.{0..3}")
MTP = (
    config(num_hidden_layers=4, num_nextn_predict_layers=1)
    + SHARDS_IN_ONE
    + """\
mtp.layers.0.mlp.down_proj.weight            F8_E4M3  [256, 256]  @ {0}
mtp.layers.0.mlp.down_proj.weight_scale_inv  F32      [2, 2]      @ {0}
""".replace("{0}", "mtp-bf16.safetensors")
)
E8M0 = BLOCK + QUANTIZED.replace("F32    ", "F8_E8M0")

SHARDED = placed(DENSE, "model-00001-of-00001.safetensors")
FOUR_BITS = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight            U32   [256, 32]   @ model.safetensors
model.layers.0.self_attn.{q,k,v,o}_proj.{scales,biases}   BF16  [256, 4]    @ model.safetensors
model.layers.0.mlp.{gate,up}_proj.weight                  U32   [512, 32]   @ model.safetensors
model.layers.0.mlp.{gate,up}_proj.{scales,biases}         BF16  [512, 4]    @ model.safetensors
model.layers.0.mlp.down_proj.weight                       U32   [256, 64]   @ model.safetensors
model.layers.0.mlp.down_proj.{scales,biases}              BF16  [256, 8]    @ model.safetensors
{model.embed_tokens,lm_head}.weight                       U32   [1024, 32]  @ model.safetensors
{model.embed_tokens,lm_head}.{scales,biases}              BF16  [1024, 4]   @ model.safetensors
"""
CONSOLIDATED = """\
layers.0.attention.w{q,k,v,o}.weight    BF16  [256, 256]   @ consolidated.safetensors
layers.0.feed_forward.w{1,3}.weight     BF16  [512, 256]   @ consolidated.safetensors
layers.0.feed_forward.w2.weight         BF16  [256, 512]   @ consolidated.safetensors
layers.0.{attention,ffn}_norm.weight    BF16  [256]        @ consolidated.safetensors
norm.weight                             BF16  [256]        @ consolidated.safetensors
{tok_embeddings,output}.weight          BF16  [1024, 256]  @ consolidated.safetensors
"""

PUBLISHED = written(DENSE, {})[FILE]
WIDER = written(DENSE.replace("BF16", "F32"), {})[FILE]
WHOLE = written(BLOCK + QUANTIZED, {})[FILE]
DAMAGED = WHOLE[: 1 << 14] + Random(0).randbytes(1 << 12) + WHOLE[(1 << 14) + (1 << 12) :]
NOTE = f"{METADATA}/{FILE}.metadata"


def noted(published: bytes) -> bytes:
    """What a download writes beside the file: commit, digest, time."""
    return f"0123abc\n{sha256(published).hexdigest()}\n0.0\n".encode()


ROWS = (
    Row(
        number=1,
        thread="airllm#137",
        what="The download of a file stopped before its end.",
        twin=LLAMA,
        files={FILE: -100},
        codes=("F8L001",),
        subject=FILE,
    ),
    Row(
        number=2,
        thread="OmniParser#34",
        what="A clone without git-lfs left a text pointer in place of the weights.",
        twin=LLAMA,
        files={FILE: b"version https://git-lfs.github.com/spec/v1\noid sha256:77aa\nsize 1700000000\n"},
        codes=("F8L002",),
        subject=FILE,
    ),
    Row(
        number=3,
        thread="sglang#32279",
        what="A shard that the index names is not there.",
        reads="J",
        twin=TWO,
        files={"model-00002-of-00002.safetensors": None},
        codes=("F8L003",),
        subject="model-00002-of-00002.safetensors",
    ),
    Row(
        number=4,
        thread="vllm#34930",
        what="A shard of a quantized model was deleted.",
        reads="J",
        twin=SHARDS,
        files={"model-00003-of-00004.safetensors": None},
        codes=("F8L003",),
        subject="model-00003-of-00004.safetensors",
    ),
    Row(
        number=5,
        thread="mlx-vlm#1827",
        what="The index is the one from before the model was quantized again.",
        reads="J",
        twin=BLOCK + QUANTIZED,
        twin_files=index_of(model=NAMES),
        files=index_of(model_00001_of_00002=f"{LINEAR}.weight", model_00002_of_00002=f"{LINEAR}.weight_scale_inv"),
        codes=("F8L003", "F8L004"),
        subject="model-00001-of-00002.safetensors",
    ),
    Row(
        number=6,
        thread="CoSER#3",
        what="The index is of twice as many shards as were published.",
        reads="J",
        twin=SHARDS,
        codes=("F8L003",),
        subject="model-00008-of-00008.safetensors",
        files=index_of(**{f"model_0000{n + 1}_of_00008": f"model.layers.{n}.mlp.down_proj.weight" for n in range(8)}),
    ),
    Row(
        number=7,
        thread="hf_hub#4725",
        what="The index puts a draft layer's tensor into a shard that does not hold it.",
        twin=BLOCK + QUANTIZED,
        twin_files=index_of(model=NAMES),
        files=index_of(model=f"{NAMES} mtp.fc.weight"),
        codes=("F8L004",),
        subject="mtp.fc.weight",
    ),
    Row(
        number=8,
        thread="vmlx-swift#388",
        what="A rewritten index left out the draft layer, which lies in a file of its own.",
        twin=MTP,
        files=indexed(SHARDS_IN_ONE),
        codes=("F8L005", "F8L911"),
        subject="mtp.layers.0.mlp.down_proj.weight",
    ),
    Row(
        number=9,
        thread="mlx-vlm#1464",
        what="A 4-bit model.safetensors lies beside the BF16 shards of the index.",
        twin=SHARDED,
        twin_files=indexed(SHARDED),
        files={FILE: written(FOUR_BITS, {})[FILE]},
        codes=("F8L006",),
        subject=FILE,
    ),
    Row(
        number=10,
        thread="vllm#40765",
        what="The weights lie there twice: in the publisher's form and in that of transformers.",
        twin=LLAMA,
        adds=CONSOLIDATED,
        files={INDEX: None},
        codes=("F8L006",),
        subject="consolidated.safetensors",
    ),
    Row(
        number=11,
        thread="vllm#4989",
        what="consolidated.safetensors lies beside the shards of the index.",
        twin=TWO,
        adds=CONSOLIDATED,
        twin_files=indexed(TWO),
        codes=("F8L006",),
        subject="consolidated.safetensors",
    ),
    Row(
        number=12,
        thread="ComfyUI#15602",
        what="There are bytes after the last tensor.",
        twin=LLAMA,
        files={FILE: 16},
        codes=("F8L011",),
        subject=FILE,
    ),
    Row(
        number=13,
        thread="hf_hub#3643",
        what="A download has the right size and another content.",
        reads="B",
        twin=DENSE,
        twin_files={NOTE: noted(PUBLISHED)},
        files={NOTE: noted(PUBLISHED[:-1] + b"!")},
        codes=("F8L009",),
        subject=FILE,
    ),
    Row(
        number=14,
        thread="aprender#3971",
        what="A file of the cache was overwritten with another, through its link.",
        reads="B",
        twin=DENSE,
        cached={FILE: sha256(PUBLISHED).hexdigest()},
        files={FILE: WIDER},
        codes=("F8L009",),
        subject="the name of its blob in the cache",
    ),
    Row(
        number=15,
        thread="vllm#53537",
        what="A shard was damaged in a way that leaves its header and its shapes.",
        reads="W",
        twin=BLOCK + QUANTIZED,
        files={FILE: DAMAGED},
        codes=("F8L801", "F8L009"),
        subject=f"{LINEAR}.weight",
    ),
    Row(
        number=16,
        thread="safetensors#839",
        what="Scales have the tag F8_E8M0, which a reader of bytes did not know.",
        twin=BLOCK + QUANTIZED,
        changes=(("F32    ", "F8_E8M0"),),
        codes=("F8L008",),
        subject=f"{LINEAR}.weight_scale_inv",
    ),
    Row(
        number=17,
        thread="fastsafetensors#69",
        what="Weights have the tag F4, whose shape counts elements and not pairs.",
        twin=NVFP4 + NVFP4_GATE_UP,
        changes=(("U8       [256, 128]", "F4       [256, 256]"),),
        codes=("F8L606", "F8L008"),
        subject="model.layers.0.mlp.gate_proj.weight",
    ),
    Row(
        number=18,
        thread="fastsafetensors#96",
        what="The header has free metadata that are empty.",
        twin=BLOCK + QUANTIZED,
        files=headed(QUANTIZED, "{}"),
        codes=("F8L007",),
        subject="no metadata, or empty ones",
    ),
    Row(
        number=19,
        thread="DeepSeek-V3#749",
        what="A converter wrote headers that name no framework.",
        twin=DENSE,
        files=file_of(DENSE, {}),
        codes=("F8L007",),
        subject=FILE,
    ),
    Row(
        number=20,
        thread="ComfyUI-GGUF#21",
        what="The reader's safetensors is older than FP8.",
        twin=LLAMA,
        codes=("F8L008",),
        subject="F8_E4M3",
        missed="every FP8 file has this tag; only the reader is too old",
    ),
)
