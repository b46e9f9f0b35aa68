"""What is legal and seen in real repositories: a linter that cries on these is switched off within a day."""

from __future__ import annotations

import pytest

from fp8load.checkpoint import Checkpoint
from fp8load.rules.samples import BLOCK, LLAMA, STATIC
from rules.examples import checkpoint_of

WEIGHT = "m.layers.{0..3}.mlp.down_proj.weight  F8_E4M3  [256, 256]\n"
GROUP = (
    'config {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", '
    '"quantization_status": "frozen", "config_groups": {%s}}}\n'
)
FP8 = '{"targets": ["%s"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}'
FP4 = '{"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": %s}'
LOCAL = FP4 % '"local"'
CHANNEL = GROUP % f'"group_0": {FP8 % "Linear"}'
MIXED = GROUP % (
    f'"group_0": {FP8 % "re:.*layers.[23].mlp.*"}, "group_1": {{"targets": ["re:.*mlp.*"], '
    f'"weights": {FP4 % "false"}, "input_activations": {LOCAL}}}'
)
COMFY = 'inside comfy_metadata {"b.0.to_q": {"format": "float8_e4m3fn"}, "b.0.to_k": {"format": "float8_e4m3fn"}}\n'
TIED = LLAMA.replace('"num_hidden_layers"', '"tie_word_embeddings": true, "num_hidden_layers"')

LEGAL = {
    "rows that are no multiple of the block": LLAMA.replace('"vocab_size": 1024', '"vocab_size": 1000').replace(
        "[1024, 256]", "[1000, 256]"
    ),
    "partial blocks": BLOCK + "m.q_a_proj.weight F8_E4M3 [587, 576]\nm.q_a_proj.weight_scale_inv F32 [5, 5]\n",
    "BF16 scales": LLAMA.replace(" F32 ", " BF16 "),
    "weight and scale in different shards": LLAMA.replace("F32      [4, 2]", "F32 [4, 2] @ model-2.safetensors"),
    "scalars as []": STATIC + WEIGHT + "m.layers.{0..3}.mlp.down_proj.{weight,input}_scale  F32 []\n",
    "scalars as [1]": STATIC + WEIGHT + "m.layers.{0..3}.mlp.down_proj.{weight,input}_scale  F32 [1]\n",
    "a tied head that is stored": TIED,
    "a tied head that is not stored": TIED.replace("{model.embed_tokens,lm_head}", "model.embed_tokens"),
    "a stray input scale": LLAMA + "model.layers.0.mlp.down_proj.input_scale  F32  [1]\n",
    "v_proj absent in some layers": BLOCK
    + "m.layers.{0..1}.self_attn.{q,k}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.{0..1}.self_attn.{q,k}_proj.weight_scale_inv F32 [2, 2]\n"
    + "m.layers.1.self_attn.v_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.1.self_attn.v_proj.weight_scale_inv F32 [2, 2]\n",
    "channels as [N]": CHANNEL + WEIGHT + "m.layers.{0..3}.mlp.down_proj.weight_scale  F32 [256]\n",
    "channels as [N, 1]": CHANNEL + WEIGHT + "m.layers.{0..3}.mlp.down_proj.weight_scale  F32 [256, 1]\n",
    "layers of two schemes, each group in one": MIXED
    + "m.layers.{0..1}.mlp.{gate,up}_proj.weight_packed U8 [256, 128]\n"
    + "m.layers.{0..1}.mlp.{gate,up}_proj.weight_scale F8_E4M3 [256, 16]\n"
    + "m.layers.{0..1}.mlp.{gate,up}_proj.{weight,input}_global_scale F32 [1]\n"
    + "m.layers.{2..3}.mlp.{gate,up}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.{2..3}.mlp.{gate,up}_proj.weight_scale F32 [256, 1]\n",
    "layers for multi-token prediction that nobody declares": BLOCK
    + "mtp.layers.0.mlp.down_proj.weight F8_E4M3 [256, 256]\nmtp.layers.0.mlp.down_proj.weight_scale_inv F32 [2, 2]\n"
    + "mtp.fc.weight BF16 [256, 512]\n",
    "layers for multi-token prediction that are left out": LLAMA.replace(
        '"vocab_size"', '"num_nextn_predict_layers": 1, "vocab_size"'
    ),
    "shards of odd sizes": LLAMA.replace("BF16     [256]", "BF16 [256] @ model-2.safetensors"),
    "the head quantized": BLOCK + "lm_head.weight F8_E4M3 [256, 256]\nlm_head.weight_scale_inv F32 [2, 2]\n",
    "biases of some kinds of layers": BLOCK
    + "m.layers.{0..3}.self_attn.{q,o}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.{0..3}.self_attn.{q,o}_proj.weight_scale_inv F32 [2, 2]\n"
    + "m.layers.{0..3}.self_attn.q_proj.bias BF16 [256]\n",
    "a partial block before a fused partner": BLOCK
    + "m.layers.0.mlp.{gate,up}_proj.weight F8_E4M3 [200, 256]\n"
    + "m.layers.0.mlp.{gate,up}_proj.weight_scale_inv F32 [2, 2]\n",
    "layers that are not quantized": BLOCK
    + "m.layers.0.mlp.{gate,up}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.0.mlp.{gate,up}_proj.weight_scale_inv F32 [2, 2]\n"
    + "m.layers.1.mlp.{gate,up}_proj.weight BF16 [256, 256]\n",
    "an ignore list that names head and embedding": BLOCK.replace(
        "[128, 128]}", '[128, 128], "modules_to_not_convert": ["lm_head", "model.embed_tokens", "re:.*lm_head"]}'
    )
    + "model.layers.0.mlp.down_proj.weight F8_E4M3 [256, 256]\n"
    + "model.layers.0.mlp.down_proj.weight_scale_inv F32 [2, 2]\n",
    "Whisper's k_proj, which has no bias": CHANNEL
    + "m.encoder.layers.{0..1}.self_attn.{q,k,v}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.encoder.layers.{0..1}.self_attn.{q,k,v}_proj.weight_scale F32 [256, 1]\n"
    + "m.encoder.layers.{0..1}.self_attn.{q,v}_proj.bias BF16 [256]\n",
    "routed experts in FP4 beside a shared one in FP8": MIXED.replace("layers.[23].mlp.*", "shared_experts.*")
    + "m.layers.0.mlp.experts.{0..1}.{gate,up}_proj.weight_packed U8 [256, 128]\n"
    + "m.layers.0.mlp.experts.{0..1}.{gate,up}_proj.weight_scale F8_E4M3 [256, 16]\n"
    + "m.layers.0.mlp.experts.{0..1}.{gate,up}_proj.{weight,input}_global_scale F32 [1]\n"
    + "m.layers.0.mlp.shared_experts.{gate,up}_proj.weight F8_E4M3 [256, 256]\n"
    + "m.layers.0.mlp.shared_experts.{gate,up}_proj.weight_scale F32 [256, 1]\n",
    "ComfyUI's layers, each as it was chosen": COMFY
    + "b.0.to_{q,k}.weight F8_E4M3 [256, 256]\nb.0.to_{q,k}.weight_scale F32 []\nb.0.to_v.weight BF16 [256, 256]\n",
}  # fmt: skip


VALUES = {f"m.layers.{layer}.mlp.{part}_proj.weight_scale": 0.02 for layer in (2, 3) for part in ("gate", "up")}
"""Scales of layers in FP8, so that weights are as large as those in FP4 beside them; all others are 1."""


@pytest.mark.parametrize("skeleton", LEGAL.values(), ids=LEGAL.keys())
def test_nothing_loud_is_said_of(skeleton):
    report = checkpoint_of(skeleton, VALUES).verify("weights")

    assert [finding for finding in report.findings if finding.severity != "info"] == []
    assert report.ok


def test_two_groups_that_claim_a_layer_are_noted():
    report = checkpoint_of(LEGAL["layers of two schemes, each group in one"]).verify("headers")

    (finding,) = [finding for finding in report.findings if finding.message == "two config groups claim a module"]
    assert finding.count == 4


def test_a_file_of_raw_casts_is_legal_where_the_caller_says_that_it_is_one():
    ckpt = checkpoint_of("double_blocks.{0..3}.mlp.weight  F8_E4M3  [256, 256]\n")

    assert Checkpoint(ckpt.source, ckpt.index, allow_unscaled=True).verify("weights").ok


def test_a_stray_input_scale_is_noted():
    report = checkpoint_of(LEGAL["a stray input scale"]).verify()

    assert [finding.severity for finding in report.findings if finding.code == "F8L106"] == ["info"]


def test_scales_of_dead_blocks_are_no_error():
    scale = "model.layers.0.mlp.down_proj.weight_scale_inv"

    assert checkpoint_of(LLAMA, {scale: 1e-23}).verify().ok


def test_a_file_of_raw_casts_is_reported_and_does_not_stop():
    report = checkpoint_of("double_blocks.{0..3}.mlp.weight  F8_E4M3  [256, 256]\n").verify("weights")

    assert [(f.code, f.severity) for f in report.findings if f.severity != "info"] == [("F8L201", "warning")]
    assert report.ok


def test_global_scales_of_layers_that_comfyui_does_not_fuse_may_differ():
    layers = ", ".join(f'"b.0.to_{part}": {{"format": "nvfp4"}}' for part in "qkv")
    skeleton = (
        f"inside comfy_metadata {{{layers}}}\n"
        "b.0.to_{q,k,v}.weight U8 [256, 128]\nb.0.to_{q,k,v}.weight_scale F8_E4M3 [256, 16]\n"
        "b.0.to_{q,k,v}.weight_scale_2 F32 []\n"
    )
    report = checkpoint_of(skeleton, {"b.0.to_q.weight_scale_2": 0.5}).verify("scales")

    assert [finding.code for finding in report.findings if finding.severity != "info"] == []
