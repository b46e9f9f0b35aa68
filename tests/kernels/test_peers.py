"""Peers compute what they are measured for: with stand-ins for libraries that are not here, and with the real ones on a
GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fp8load.runtime.backend import Yes, backends_for, device_of
from fp8load_kernels.bench.accuracy import TOLERANCE, Truth
from fp8load_kernels.bench.clock import Clock
from fp8load_kernels.bench.gemm import GemmBench
from fp8load_kernels.bench.operands import random_input, random_weights
from fp8load_kernels.bench.peer_list import all_peers
from fp8load_kernels.bench.peers import vllm_blocks, vllm_rows
from fp8load_kernels.bench.peers.bf16 import BF16
from fp8load_kernels.bench.peers.deepgemm import DeepGemmBlocks
from fp8load_kernels.bench.peers.torch_blocks import TorchBlocks
from fp8load_kernels.bench.peers.torch_rows import TorchRows
from fp8load_kernels.bench.schemes import SCHEMES
from fp8load_kernels.bench.shapes import sized

GPU = torch.cuda.is_available()
PARTS, COLS, TOKENS = (("q", 256), ("k", 128)), 640, 20  # five groups of columns: no multiple of four


def layer(kind: str):
    rng = torch.Generator().manual_seed(3)
    return random_weights(SCHEMES[kind], PARTS, COLS, rng), random_input(TOKENS, COLS, rng)


def wide(codes: torch.Tensor, scale: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Codes times a grid of scales, one for `rows` x `cols` of them."""
    return codes.float() * scale.repeat_interleave(rows, 0).repeat_interleave(cols, 1)


def error(peer, kind: str) -> float:
    weights, x = layer(kind)
    return Truth.of(weights, x).error(peer.prepare(weights, x)())


@pytest.mark.parametrize("kind", SCHEMES)
def test_bf16_multiplies_the_dequantized_weight(kind: str) -> None:
    assert error(BF16(), kind) < TOLERANCE


def test_torch_gets_a_scale_for_each_row(monkeypatch) -> None:
    def product(a, b, *, scale_a, scale_b, out_dtype, use_fast_accum):
        assert (scale_a.shape, scale_b.shape, use_fast_accum) == ((TOKENS, 1), (1, 384), True)
        assert b.stride() == (1, COLS)
        return ((a.float() * scale_a) @ (b.float() * scale_b)).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    assert error(TorchRows(), "channel") < TOLERANCE


def test_torch_gets_blocks_column_by_column_with_room_for_a_multiple_of_four(monkeypatch) -> None:
    def product(a, b, s_a, kind_a, s_b, kind_b, *, output_dtype):
        assert (kind_a, kind_b) == (F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128)
        assert s_a.shape == (TOKENS, COLS // 128)
        assert s_a.stride(0) == 1
        assert (s_b.shape, s_b.stride()) == ((8, 3), (1, 8))  # torch wants what fills them up to be a part of them
        return (wide(a, s_a, 1, 128) @ wide(b, s_b[: COLS // 128], 128, 128)).to(output_dtype)

    monkeypatch.setattr(F, "scaled_mm", product)
    assert error(TorchBlocks(), "block") < TOLERANCE


def test_deepgemm_gets_its_own_layout_of_scales(monkeypatch) -> None:
    def product(a, b, y) -> None:
        assert a[1].stride(0) == 1
        y.copy_(wide(*a, 1, 128) @ wide(*b, 128, 128).T)

    module = ModuleType("deep_gemm")
    vars(module).update(fp8_gemm_nt=product, get_mn_major_tma_aligned_tensor=lambda scale: scale.t().contiguous().t())
    monkeypatch.setitem(sys.modules, "deep_gemm", module)
    assert error(DeepGemmBlocks(), "block") < TOLERANCE


def test_cutlass_gets_scales_of_rows_as_columns(monkeypatch) -> None:
    def product(y, a, b, s_a, s_b, bias) -> None:
        assert (s_a.shape, s_b.shape, bias) == ((TOKENS, 1), (384, 1), None)
        y.copy_((a.float() * s_a) @ (b.float() * s_b.T))

    monkeypatch.setattr(vllm_rows, "operators", lambda: SimpleNamespace(cutlass_scaled_mm=product))
    assert error(vllm_rows.VllmRows(), "channel") < TOLERANCE


def test_cutlass_gets_blocks_column_by_column(monkeypatch) -> None:
    def product(y, a, b, s_a, s_b, bias) -> None:
        assert (s_a.stride(0), s_b.shape, bias) == (1, (COLS // 128, 3), None)
        y.copy_(wide(a, s_a, 1, 128) @ wide(b, s_b, 128, 128))

    monkeypatch.setattr(vllm_blocks, "operators", lambda: SimpleNamespace(cutlass_scaled_mm=product))
    assert error(vllm_blocks.VllmBlocks(), "block") < TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu_whoever_says_yes_is_near_the_truth(graph: bool) -> None:
    device = torch.device("cuda")
    bench = GemmBench.on(device, seed=5, graph=graph)
    cases = [sized(kind, (512, 1024), kind) for kind in SCHEMES]
    bench.measure(cases, (1, 64), backends_for(device_of(device)), all_peers())

    assert bench.failed == []
    assert max(row.error for row in bench.rows) < TOLERANCE
    assert all(0 < row.us < 1e6 for row in bench.rows)
    assert 1e5 < bench.limits.bandwidth < 1e8


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_on_a_gpu_a_graph_costs_no_launches() -> None:
    x = torch.ones(1, device="cuda")

    def many() -> None:
        for _ in range(50):
            x.add_(1)

    device = torch.device("cuda")
    assert Clock(device, graph=True).us(many) < Clock(device).us(many)
    assert BF16().supports(layer("block")[0], 1, device_of(device)) == Yes()
