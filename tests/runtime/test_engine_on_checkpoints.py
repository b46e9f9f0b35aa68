"""The two ways into a layer agree: a plan that reads boxes, and `weight_loader` calls with whole tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.errors import PlanError
from fp8load.runtime.layers import ScaledLinear
from fp8load.runtime.parameters import make_parameters
from fp8load.runtime.plain import read_tensor


@pytest.mark.parametrize(("tp_rank", "tp_size"), [(0, 1), (0, 2), (1, 2)])
def test_weight_loader_fills_what_a_plan_fills(checkpoint: Path, tp_rank: int, tp_size: int) -> None:
    opened = fp8load.open(checkpoint)
    try:
        plan = opened.plan(tp_rank=tp_rank, tp_size=tp_size)
    except PlanError:
        pytest.skip(f"{checkpoint.name} does not split over tp={tp_size}")
    model = plan.load(device="cpu")
    tensors = {copy.source: read_tensor(opened, opened.index.tensors[copy.source]) for copy in plan.copies}
    for name, spec in plan.layers.items():
        layouts = [param.layout for param in plan.params.values() if param.module == name]
        params = make_parameters(layouts, name, scheme=spec.scheme)
        by_name = {param.full_name: param for param in params.values()}
        for copy in plan.copies:
            if copy.param in by_name:
                shard_id = None if spec.fused_on_disk else copy.slot
                by_name[copy.param].weight_loader(by_name[copy.param], tensors[copy.source], shard_id)
        layer = ScaledLinear.from_spec(spec, params).finalize()
        loaded = model[name]
        for (role, mine), (_, planned) in zip(layer.named_parameters(), loaded.named_parameters(), strict=True):
            a, b = (param.reshape(-1).view(torch.uint8) for param in (mine, planned))
            assert torch.equal(a, b), f"{name}.{role}"
        x = torch.randn(2, layer.shape[1])
        assert torch.equal(layer(x), loaded(x))
