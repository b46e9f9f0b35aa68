"""What transformers calls a module while it is loaded, where the checkpoint has another name for it.

Since 4.52 it renames the parts of multimodal models when it loads them, and back when it saves: "visual.blocks.0" is
"model.visual.blocks.0" in between, "language_model.model.layers.0" (of a Llava) is "model.language_model.layers.0", and
so is "model.layers.0" of a Qwen2-VL; "language_model.lm_head" is "lm_head". Tools that walk a loaded model write these
names into their lists, and vLLM maps them back (`hf_to_vllm_mapper`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_OUTER = "language_model."
_ROOT = "model."
_INNER = _ROOT + _OUTER
_LOADED = re.compile(r"(?:re:)?\^?(?:model\b|lm_head)")


def is_loaded_name(entry: str) -> bool:
    """Whether an entry of a list, or the expression that it is, may be the name of a module of a loaded model."""
    return _LOADED.match(entry) is not None


def loaded_names(module: str) -> Iterator[str]:
    """The other names that a stored module may have in a loaded model."""
    if module.startswith(_OUTER):
        inner = module.removeprefix(_OUTER)
        yield _INNER + inner.removeprefix(_ROOT) if inner.startswith(_ROOT) else inner
    elif module.startswith(_ROOT):
        if not module.startswith(_INNER):
            yield _INNER + module.removeprefix(_ROOT)
    else:
        yield _ROOT + module
