"""The mini-engine of the documentation runs, and computes what an unquantized block computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from fp8load.errors import UnfilledSlotError
from fp8load.runtime.dequantize import dequantize

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini_engine", DOCS / "engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(engine: ModuleType, x: torch.Tensor) -> torch.Tensor:
    """The same block with float64 weights, on one rank."""
    tensors = dict(engine.checkpoint())
    block = engine.SCHEME.weight.granularity
    w = {name: dequantize(tensors[f"{name}.weight"], tensors[f"{name}.weight_scale_inv"], block).double()
         for name in engine.ROWS}  # fmt: skip
    x = x.double()
    q, k, v = ((x @ w[f"{name}_proj"].T).unflatten(-1, (-1, engine.HEAD)).transpose(0, 1) for name in "qkv")
    k, v = (t.repeat_interleave(engine.HEADS // engine.KV_HEADS, dim=0) for t in (k, v))
    future = torch.ones(len(x), len(x)).triu(1).bool()
    scores = (q @ k.transpose(1, 2) / engine.HEAD**0.5).masked_fill(future, -torch.inf)
    x = x + (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ w["o_proj"].T
    gate, up = (x @ w["gate_up_proj"].T).chunk(2, dim=-1)
    return x + (F.silu(gate) * up) @ w["down_proj"].T


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_the_mini_engine_computes_the_block_on_any_number_of_ranks(engine: ModuleType, tp_size: int) -> None:
    x = torch.randn(7, engine.HIDDEN, generator=torch.Generator().manual_seed(1))
    expected = plain(engine, x)
    for backend, limit in (("reference", 1e-5), (None, 0.05)):
        y = engine.run(x, tp_size, backend).double()
        assert (y - expected).norm() <= limit * expected.norm()


def test_the_mini_engine_refuses_a_checkpoint_without_one_tensor(engine: ModuleType) -> None:
    for left_out, _ in engine.checkpoint():
        rest = (item for item in engine.checkpoint() if item[0] != left_out)
        module, suffix = left_out.split(".")
        target, _ = engine.STACKED.get(module, (module, None))
        with pytest.raises(UnfilledSlotError, match=rf"{target}\.{engine.SUFFIXES[suffix]}\["):
            engine.Block(0, 1).load(rest)
