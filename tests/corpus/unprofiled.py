"""Rows whose checkpoints are right: what a reader does with them is in no profile."""

from corpus.row import Unbuilt

UNBUILT = (
    Unbuilt(
        number=22,
        thread="xinference#4959",
        what="A version of the engine no longer sees that a multimodal model is FP8.",
        why="the configuration is where it belongs; which classes of vLLM pass over it is in no profile",
    ),
    Unbuilt(
        number=25,
        thread="mlx-lm#1865",
        what="compressed-tensors FP8, which a reader takes for 4-bit integers.",
        why="the checkpoint is right, and no profile of mlx-lm exists",
    ),
    Unbuilt(
        number=40,
        thread="Quark#42",
        what="Quark left FP8 layers as they were, and renamed their block scales.",
        why="which name vLLM reads of Quark's block scales is not in its profile",
    ),
    Unbuilt(
        number=51,
        thread="sglang#19000",
        what="The projections of a Mamba layer are FP8, and the engine builds them in 16 bits.",
        why="which layers of Falcon-H1 SGLang leaves in 16 bits is not in its profile",
    ),
    Unbuilt(
        number=52,
        thread="vllm#53950",
        what="An engine built a quantized layer without quantization.",
        why="the thread does not say why",
    ),
    Unbuilt(
        number=53,
        thread="sglang#24696",
        what="Experts are stored one by one, and the loader knows one tensor for all.",
        why="the layouts that SGLang knows of Gemma 4 are not in its profile",
    ),
    Unbuilt(
        number=54,
        thread="mlx-lm#1224",
        what="Experts one by one and weight_scale_inv are names that the reader does not have.",
        why="no profile of mlx-lm exists",
    ),
    Unbuilt(
        number=56,
        thread="trtllm#18658",
        what="The indexer's wk is FP8, and the engine holds it in 16 bits.",
        why="what TensorRT-LLM builds of the indexer is not in its profile",
    ),
    Unbuilt(
        number=57,
        thread="vllm#38870",
        what="An engine fuses the FP8 wk of the indexer with weights_proj, which is BF16.",
        why="published checkpoints are so; which vLLM fuses the two is in no profile",
    ),
    Unbuilt(
        number=58,
        thread="transformers#45930",
        what="A rule for the names of experts catches their scales too.",
        why="the conversions of transformers are not in its profile",
    ),
    Unbuilt(
        number=61,
        thread="llama.cpp#12341",
        what="A converter has no name for weight_scale_inv.",
        why="the profile of llama.cpp is of a version that reads it",
    ),
    Unbuilt(
        number=63,
        thread="sglang#3604",
        what="A generic model class of the engine has no parameters for scales.",
        why="which class SGLang takes is no matter of the checkpoint",
    ),
    Unbuilt(
        number=64,
        thread="transformers#48349",
        what="The list says model.language_model, and the class that is loaded says model.",
        why="renames of transformers are not in its profile",
    ),
    Unbuilt(
        number=65,
        thread="vllm#54547",
        what="Quark's list has the checkpoint's names, and the engine compares with its own.",
        why="how vLLM reads Quark's list is not in its profile",
    ),
    Unbuilt(
        number=66,
        thread="SlimServe#6",
        what="The list has the checkpoint's prefix, and the engine compares with its own.",
        why="no profile of SlimServe exists",
    ),
    Unbuilt(
        number=74,
        thread="sglang#23973",
        what="An engine takes in_proj_ba apart, which is one tensor in the checkpoint.",
        why="how SGLang takes in_proj_ba apart is not in its profile",
    ),
    Unbuilt(
        number=77,
        thread="sglang#39317",
        what="Quark's list has fused names and single experts, and the engine builds other modules.",
        why="how SGLang reads Quark's list is not in its profile",
    ),
    Unbuilt(
        number=81,
        thread="llm-compressor#1306",
        what="The vision tower is quantized, and the engine builds it in 16 bits.",
        why="that vLLM builds vision towers in 16 bits is not in its profile",
    ),
    Unbuilt(
        number=85,
        thread="sglang#38878",
        what="Shared experts are stored apart, and the engine wants them among the others.",
        why="fusion of shared experts is a switch of SGLang, not in its profile",
    ),
    Unbuilt(
        number=92,
        thread="imp#494",
        what="qkv_proj and gate_up_proj are one NVFP4 tensor each, and a reader does not split their block scales.",
        why="the checkpoint is right, and no profile of imp exists",
    ),
    Unbuilt(
        number=97,
        thread="vllm#49638",
        what="All experts of a layer are one tensor, and the loader knows their weights and not their scales.",
        why="the class is in no release of vLLM; that the layout needs one is in no profile",
    ),
    Unbuilt(
        number=105,
        thread="vllm#53242",
        what="q, k and v are stored fused, in groups of one KV head that end inside blocks.",
        why="the family, MiMo-V2.5, is not one that is known",
    ),
    Unbuilt(
        number=120,
        thread="sglang#28662",
        what="F32 block scales of compressed-tensors are handed to a kernel of Blackwell that takes exponents.",
        why="the checkpoint is right; SGLang 0.5.4 has no such layers and 0.5.23 rounds the scales, which F8L707 says",
    ),
    Unbuilt(
        number=174,
        thread="Automodel#2690",
        what="Tensors are read whole and twice, into more memory than the host has.",
        why="how a reader reads is not in the file; how large the tensors are `fp8load inspect` says",
    ),
    Unbuilt(
        number=190,
        thread="unsloth#8415",
        what="The files are from before a field that the reader asks for.",
        why="what that reader asks for is in no profile",
    ),
)
