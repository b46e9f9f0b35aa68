"""The model that transformers builds from a config, with weights that are already plain numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from oracle.catalog import config_of


def logits_of_plain_model(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    input_ids: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    inputs: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> np.ndarray:
    """Logits of the architecture in config.json, unquantized, in `dtype`, with exactly these weights.

    Every weight must be one that the model has, and all but a tied head must be given. `inputs` changes what the
    modules that it names get. Attention is eager where inputs are changed, as in the tools that do so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # raised at import by packages of others
        from transformers import AutoConfig, AutoModelForCausalLM

    document = {key: value for key, value in config_of(folder).items() if key != "quantization_config"}
    config = AutoConfig.for_model(**document)
    attention = {} if inputs is None else {"attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, **attention).eval()
    for name, change in (inputs or {}).items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, change=change: (change(given[0]),))
    report = model.load_state_dict(dict(weights), strict=False)
    assert report.unexpected_keys == []
    assert report.missing_keys == (["lm_head.weight"] if config.tie_word_embeddings else [])
    with torch.no_grad():
        head: np.ndarray = model(torch.from_numpy(input_ids)).logits.float().numpy()
    return head
