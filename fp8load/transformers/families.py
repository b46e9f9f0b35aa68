"""Which families run in transformers' models, and what transformers calls their modules where checkpoints differ."""

from __future__ import annotations

from collections.abc import Mapping

from fp8load.checkpoint import Checkpoint
from fp8load.errors import Problem, UsageError

FAMILIES: Mapping[str, Mapping[str, str]] = {
    "deepseek_v3": {},
    "gemma3": {},
    "gpt_oss": {},
    "llama": {},
    "mistral": {},
    "mixtral": {"block_sparse_moe": "mlp"},  # transformers 5 renamed it; checkpoints keep the name
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "qwen3_next": {},
}
"""Families by name, each tried with checkpoints of real tools: component of a module's name on disk -> in the model."""


def renames_of(checkpoint: Checkpoint) -> Mapping[str, str]:
    """What the checkpoint's family is called by in the model. Raises `UsageError` USE030 for one that is not listed."""
    arch = checkpoint.arch
    if arch is None or arch.name not in FAMILIES:
        model_type = checkpoint.index.config.get("model_type")
        raise UsageError(Problem(
            code="USE030", message="this family is not known to run in transformers' model",
            file=checkpoint.source.info.id, expected=f"one of {', '.join(FAMILIES)}",
            got=f"{arch.name if arch is not None else 'an unknown family'}, model_type {model_type!r}",
            hint="load the numbers into transformers' own model: dict(checkpoint.plain_tensors()) has its names",
        ))  # fmt: skip
    return FAMILIES[arch.name]
