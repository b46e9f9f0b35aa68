"""Which families run in transformers' models, and what transformers calls their modules where checkpoints differ."""

from __future__ import annotations

from collections.abc import Mapping

from fp8load.archs.model import Model
from fp8load.checkpoint import Checkpoint
from fp8load.errors import Problem, UsageError

_SPARSE = {"block_sparse_moe": "mlp"}
"""transformers 5 renamed the module; checkpoints keep the name."""

RENAMES: Mapping[str, Mapping[str, str]] = {"minimax_m2": _SPARSE, "mixtral": _SPARSE, "phimoe": _SPARSE}
"""model_type -> component of a module's name on disk -> component in the model, where they differ."""

MODEL_TYPES = (
    "apertus", "arcee", "bailing_hybrid", "beam", "cohere", "cohere2", "cohere2_moe", "cwm", "deepseek_v2",
    "deepseek_v3", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "flint", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt_oss", "granite", "helium", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "hy_v3", "llama", "minimax_m2", "ministral3", "mistral", "mixtral", "nemotron", "olmo",
    "olmo2", "olmoe", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2",
)  # fmt: skip
"""Tried one by one: logits are those of transformers' own model with the same numbers. Others may differ unseen: in the
order of fused rows, or by code that looks at a weight's dtype."""


def known(checkpoint: Checkpoint) -> tuple[Model, Mapping[str, str]]:
    """The checkpoint's model, and the components of its names that transformers spells otherwise.

    Raises `UsageError` USE030 for a family that is not listed.
    """
    model, model_type = checkpoint.model, checkpoint.index.config.get("model_type")
    if model is None or model_type not in MODEL_TYPES:
        raise UsageError(Problem(
            code="USE030", message="this family is not known to run in transformers' model",
            file=checkpoint.source.info.id, expected=f"a model_type of {', '.join(MODEL_TYPES)}",
            got=f"model_type {model_type!r}, family {'unknown' if model is None else model.arch.name}",
            hint="load its numbers into transformers' own model: dict(checkpoint.plain_tensors()) has its names",
        ))  # fmt: skip
    return model, RENAMES.get(model_type, {})
