"""Where Triton's kernels are interpreted, numbers are rounded as a GPU rounds them.

The interpreter of Triton 3.6 cuts bits off, or adds one without carrying it into the exponent: 1.99 becomes 1 in FP8.
And it multiplies matrices of BF16 as if their bits were integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

BITS = {16: torch.int16, 32: torch.int32, 64: torch.int64, 8: torch.uint8}


def rounded(values: Any, source: Any, target: Any, _mode: Any) -> Any:
    """The bits of `values`, of Triton's dtype `source`, as those of `target`; to FP8 the largest code saturates."""
    import triton.language as tl

    known = {
        tl.float16: torch.float16, tl.bfloat16: torch.bfloat16, tl.float32: torch.float32, tl.float64: torch.float64,
        tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2,
    }  # fmt: skip
    data = torch.from_numpy(np.frombuffer(values.tobytes(), dtype=np.uint8).copy()).view(known[source])
    if target in (tl.float8e4nv, tl.float8e5):
        largest = torch.finfo(known[target]).max
        data = data.float().clamp(-largest, largest)
    bits = data.to(known[target]).view(BITS[target.primitive_bitwidth]).numpy()
    return bits.view(f"uint{target.primitive_bitwidth}").reshape(values.shape)


def dot_of_numbers(dot: Any, handle: Any) -> Any:
    """The interpreter's product, given BF16 as float32, which holds it exactly."""

    def widened(operand: Any) -> Any:
        import triton.language as tl

        if operand.dtype != tl.bfloat16:
            return operand
        bits = rounded(operand.data, tl.bfloat16, tl.float32, None)
        return handle(bits.view(np.float32), tl.float32)

    return lambda builder, a, b, *rest: dot(builder, widened(a), widened(b), *rest)


@pytest.fixture(autouse=True)
def _rounds_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not torch.cuda.is_available() and find_spec("triton") is not None:  # what needs it skips itself
        from triton.runtime import interpreter

        monkeypatch.setattr(interpreter, "_convert_float", rounded)
        builder = interpreter.InterpreterBuilder
        monkeypatch.setattr(builder, "create_dot", dot_of_numbers(builder.create_dot, interpreter.TensorHandle))
    yield
