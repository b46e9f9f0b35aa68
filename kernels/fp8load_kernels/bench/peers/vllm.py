"""vLLM's operators without vLLM: VLLM_C names its library, `_C_stable_libtorch.abi3.so` out of the wheel.

Seen working: vllm==0.23.0 with torch 2.11.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

VARIABLE = "VLLM_C"


@cache
def refuses_library() -> str:
    """Why there are no operators of vLLM; nothing where they are. Loads the library once."""
    path = os.environ.get(VARIABLE)
    if not path:
        return f"{VARIABLE} does not name vLLM's library"
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]  # torch does not annotate it
    except (OSError, RuntimeError) as error:
        return f"{VARIABLE}: {str(error).splitlines()[0]}"
    return ""


def operators() -> Any:
    """The operators, after `refuses_library` has said nothing."""
    return torch.ops._C
