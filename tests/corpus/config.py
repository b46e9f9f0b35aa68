"""Configuration, detection, drift between versions."""

from corpus.bases import CHANNEL, CT_CHANNEL, CT_NVFP4, DENSE, NVFP4, TOKEN, config, ct, modelopt, quantized
from corpus.row import Row
from fp8load.rules.samples import BLOCK, LLAMA, LLAMA_ATTENTION, LLAMA_MLP, QUANTIZED, TENSOR_WISE

PLAIN = DENSE
MODELOPT = modelopt("FP8", "lm_head") + TENSOR_WISE + "lm_head.weight BF16 [1024, 256]\n"
MODEL_TYPE = config(model_type="some_llama")  # ModelOpt copies config.json whatever the layout
BESIDE = (
    'file hf_quant_config.json {"producer": {"name": "modelopt", "version": "0.33.0"}, "quantization": '
    '{"quant_algo": "FP8", "kv_cache_quant_algo": %s, "exclude_modules": ["lm_head"]}}\n'
)
EXPERTS = """\
model.layers.0.mlp.experts.{0..7}.{gate,up}_proj.weight            F8_E4M3  [128, 256]
model.layers.0.mlp.experts.{0..7}.{gate,up}_proj.weight_scale_inv  F32      [1, 2]
model.layers.0.mlp.experts.{0..7}.down_proj.weight                 F8_E4M3  [256, 128]
model.layers.0.mlp.experts.{0..7}.down_proj.weight_scale_inv       F32      [2, 1]
"""
QUANTIZATION = BLOCK.removeprefix("config ").strip()[1:-1]

TWO_GROUPS = (
    quantized(
        quant_method="compressed-tensors",
        quantization_status="compressed",
        format="mixed-precision",
        ignore=[],
        config_groups={
            "group_0": {
                "targets": ["re:.*self_attn.*"],
                "weights": CHANNEL,
                "input_activations": TOKEN,
                "format": "float-quantized",
            },
            "group_1": {"targets": ["re:.*mlp.*"], "weights": NVFP4, "format": "nvfp4-pack-quantized"},
        },
    )
    + """\
model.layers.{0..1}.self_attn.{q,k,v,o}_proj.weight         F8_E4M3  [256, 256]
model.layers.{0..1}.self_attn.{q,k,v,o}_proj.weight_scale   BF16     [256, 1]
model.layers.{0..1}.mlp.{gate,up}_proj.weight_packed        U8       [256, 128]
model.layers.{0..1}.mlp.{gate,up}_proj.weight_scale         F8_E4M3  [256, 16]
model.layers.{0..1}.mlp.{gate,up}_proj.weight_global_scale  F32      [1]
"""
)
BY_CLASS = (
    quantized(
        quant_method="compressed-tensors",
        quantization_status="compressed",
        format="mixed-precision",
        ignore=[],
        config_groups={
            "group_0": {
                "targets": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"],
                "weights": NVFP4,
                "format": "nvfp4-pack-quantized",
            },
            "group_1": {
                "targets": ["Linear"],
                "weights": CHANNEL,
                "input_activations": TOKEN,
                "format": "float-quantized",
            },
        },
    )
    + """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight         F8_E4M3  [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.weight_scale   BF16     [256, 1]
model.layers.0.mlp.{gate,up}_proj.weight_packed        U8       [256, 128]
model.layers.0.mlp.{gate,up}_proj.weight_scale         F8_E4M3  [256, 16]
model.layers.0.mlp.{gate,up}_proj.weight_global_scale  F32      [1]
"""
)
INT8 = """\
model.layers.0.self_attn.{q,k,v,o}_proj.weight  I8   [256, 256]
model.layers.0.self_attn.{q,k,v,o}_proj.SCB     F32  [256]
model.layers.0.mlp.{gate,up}_proj.weight        I8   [512, 256]
model.layers.0.mlp.{gate,up}_proj.SCB           F32  [512]
model.layers.0.mlp.down_proj.weight             I8   [256, 512]
model.layers.0.mlp.down_proj.SCB                F32  [256]
"""
"""The linear layers of `LLAMA` as bitsandbytes quantizes them."""
PRUNED = (
    config(num_hidden_layers=1, num_experts=4, mtp_num_hidden_layers=1)
    + BLOCK
    + EXPERTS.replace("{0..7}", "{0..3}")
    + """\
mtp.layers.0.mlp.experts.{0..3}.{gate,up}_proj.weight            F8_E4M3  [128, 256]
mtp.layers.0.mlp.experts.{0..3}.{gate,up}_proj.weight_scale_inv  F32      [1, 2]
"""
)

ROWS = (
    Row(
        number=21,
        thread="sglang-omni#1451",
        what="A flag of one publisher stands in place of quantization_config.",
        twin=BLOCK + EXPERTS,
        changes=((BLOCK, config(use_fp8_experts=True)),),
        codes=("F8L104",),
        subject="use_fp8_experts",
    ),
    Row(
        number=23,
        thread="transformers#47145",
        what="quantization_status is frozen, and the weights are compressed.",
        twin=CT_CHANNEL,
        changes=(('"compressed"', '"frozen"'),),
        codes=("F8L105",),
        subject="frozen",
        noted="older exports say so, and vLLM reads them as they are meant",
    ),
    Row(
        number=24,
        thread="transformers#48072",
        what="The format is a packed one, and the weights are not quantized.",
        twin=CT_NVFP4,
        changes=(
            ("weight_packed        U8       [256, 128]", "weight  BF16  [256, 256]"),
            ("model.layers.{0..3}.mlp.{gate,up}_proj.weight_scale         F8_E4M3  [256, 16]\n", ""),
            ("model.layers.{0..3}.mlp.{gate,up}_proj.weight_global_scale  F32      [1]\n", ""),
        ),
        codes=("F8L102", "F8L105"),
        subject="model.layers.0.mlp.gate_proj.weight",
    ),
    Row(
        number=26,
        thread="trtllm#15415",
        what="The config group has the name of its scheme, and a reader asks for group_0.",
        reads="J",
        twin=CT_CHANNEL,
        changes=(("group_0", "FP8_DYNAMIC"),),
        codes=("F8L105",),
        subject="FP8_DYNAMIC",
        noted="names of groups are free, and every other reader takes any",
    ),
    Row(
        number=27,
        thread="vllm#49483",
        what="Two groups, one by class and one by names, of which an engine takes the first.",
        reads="P",
        twin=BY_CLASS,
        twin_engine="vllm@0.33",
        engine="vllm@0.11",
        codes=("F8L105",),
        subject="model.layers.0.mlp.gate_proj",
    ),
    Row(
        number=28,
        thread="ROCmFPX#79",
        what="Two groups of the configuration claim the same layers.",
        twin=TWO_GROUPS,
        changes=(("self_attn.*", "(self_attn|mlp).*"),),
        codes=("F8L105",),
        subject="group_0 and group_1",
    ),
    Row(
        number=29,
        thread="vllm#29980",
        what="That the KV cache is FP8 stands in hf_quant_config.json only.",
        reads="J",
        twin=MODELOPT + BESIDE % "null",
        changes=(('"kv_cache_quant_algo": null', '"kv_cache_quant_algo": "FP8"'),),
        codes=("F8L103", "F8L901"),
        subject="hf_quant_config.json",
    ),
    Row(
        number=30,
        thread="sglang#8829",
        what="The quantization is said in hf_quant_config.json, and config.json has nothing of it.",
        reads="J",
        twin=MODEL_TYPE + MODELOPT,
        changes=((modelopt("FP8", "lm_head"), BESIDE % "null"),),
        codes=("F8L104",),
        subject="hf_quant_config.json",
        noted="ModelOpt writes either layout; who reads config.json only takes the model to be unquantized",
    ),
    Row(
        number=32,
        thread="transformers#35471",
        what="The reader is older than the method.",
        reads="P",
        twin=BLOCK + QUANTIZED,
        engine="transformers@4.47",
        twin_engine="transformers@4.53",
        codes=("F8L107",),
        subject="fp8",
    ),
    Row(
        number=33,
        thread="vllm#34028",
        what="The method is one that no release knows any more.",
        reads="J",
        twin=LLAMA,
        changes=(('"quant_method": "fp8"', '"quant_method": "fp8_blockwise"'),),
        codes=("F8L110",),
        subject="fp8_blockwise",
    ),
    Row(
        number=34,
        thread="vllm#19050",
        what="The weights were quantized again in another way, and the FP8 configuration stayed.",
        twin=LLAMA,
        changes=((LLAMA_ATTENTION + LLAMA_MLP, INT8),),
        codes=("F8L105",),
        subject="model.layers.0.mlp.down_proj.weight",
    ),
    Row(
        number=35,
        thread="sglang#6054",
        what="A model was converted to BF16, and config.json still says FP8.",
        twin=DENSE,
        adds=BLOCK,
        codes=("F8L102",),
        subject="model.layers.0.mlp.down_proj.weight",
    ),
    Row(
        number=38,
        thread="vllm#45312",
        what="The scheme of the KV cache is one that does not exist.",
        reads="J",
        twin=ct(CHANNEL, TOKEN, kv_cache_scheme={"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": True})
        + CT_CHANNEL.partition("\n")[2],
        changes=(('"kv_cache_scheme": {"num_bits": 8', '"kv_cache_scheme": {"num_bits": 4'),),
        codes=("F8L107",),
        subject="kv_cache_scheme",
    ),
    Row(
        number=39,
        thread="omlx#3610",
        what="The trunk was pruned to fewer experts, and the draft layer was not.",
        twin=PRUNED,
        changes=(("mtp.layers.0.mlp.experts.{0..3}", "mtp.layers.0.mlp.experts.{0..7}"),),
        codes=("F8L109",),
        subject="mtp.layers.0.mlp.experts",
    ),
)
