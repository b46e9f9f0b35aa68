"""FP8 layers on a GPU, bf16 in and out, quantization included: our backends and the peers', in one run.

python tests/benchmarks/products.py OUT.json [row|block]. Microseconds: medians of a captured graph's replays, and of
`do_bench` without one (eager), the L2 flushed before each. Peers: torch's and DeepGEMM's (sgl-deep-gemm==0.1.5) products
and vLLM's CUTLASS ones, each behind vLLM's quantization where VLLM_C names its library, else behind ours; and bf16.
`limit` is the larger of bytes over the copy's bandwidth and operations over 1979 TFLOP/s.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from few import graph_us
from triton.testing import do_bench

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Part, Yes, device_of
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerToken, QuantSpec
from fp8load_kernels.gpu.quantize import quantize_groups, quantize_rows
from fp8load_kernels.select import provider

SHAPES = {
    "l8b.qkv": (6144, 4096), "l8b.gate_up": (28672, 4096), "l8b.down": (4096, 14336), "l70b.qkv": (10240, 8192),
    "l70b.down": (8192, 28672), "ds3.q_b": (24576, 1536), "ds3.o": (7168, 16384), "ds3.sh_gate_up": (4096, 7168),
}  # fmt: skip
TOKENS = tuple(int(each) for each in os.environ.get("TOKENS", "1,16,64,512,4096,8192").split(","))
BF16, F8 = torch.bfloat16, torch.float8_e4m3fn
E4M3 = DType.F8_E4M3
SCHEMES = {
    "row": LinearScheme(
        weight=QuantSpec(dtype=E4M3, granularity=PerChannel(), scale_dtype=DType.F32),
        input=QuantSpec(dtype=E4M3, granularity=PerToken()),
    ),
    "block": LinearScheme(
        weight=QuantSpec(dtype=E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
        input=QuantSpec(dtype=E4M3, granularity=PerGroup(128)),
    ),
}
ASIDE = ("emulated", "reference")
SLOW = ("triton_weight_only",)
"""Not measured for many tokens, for which it is none's choice here."""
Run = Callable[[], Any]
Pair = tuple[torch.Tensor, torch.Tensor]


def quantizer(kind: str, x: torch.Tensor) -> Callable[[], Pair]:
    """The peers' way of quantizing: vLLM's kernel where there is one."""
    if not os.environ.get("VLLM_C"):
        ours = quantize_rows if kind == "row" else quantize_groups

        def run_ours() -> Pair:
            quantized = ours(x, E4M3)
            return quantized.codes, quantized.scale

        return run_ours
    codes = torch.empty(x.shape, dtype=F8, device="cuda")
    scale = torch.empty(len(x), 1 if kind == "row" else x.shape[1] // 128, device="cuda")

    def run() -> Pair:
        if kind == "row":
            torch.ops._C.dynamic_per_token_scaled_fp8_quant(codes, x, scale, None)
        else:
            torch.ops._C.per_token_group_fp8_quant(x, codes, scale, 128, 1e-10, -448.0, 448.0, False, False, False)
        return codes, scale

    return run


def row_peers(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> dict[str, Run]:
    quantize, y = quantizer("row", x), torch.empty(len(x), len(w), dtype=BF16, device="cuda")

    def torch_row() -> torch.Tensor:
        codes, x_scale = quantize()
        return torch._scaled_mm(codes, w.t(), x_scale, scale.t(), out_dtype=BF16, use_fast_accum=True)

    def cutlass() -> torch.Tensor:
        codes, x_scale = quantize()
        torch.ops._C.cutlass_scaled_mm(y, codes, w.t(), x_scale, scale, None)
        return y

    return {"peer torch": torch_row, **({"peer CUTLASS": cutlass} if os.environ.get("VLLM_C") else {})}


def block_peers(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> dict[str, Run]:
    quantize, y = quantizer("block", x), torch.empty(len(x), len(w), dtype=BF16, device="cuda")
    found: dict[str, Run] = {}
    kinds = getattr(F, "ScalingType", None)
    if kinds is not None and len(x) % 4 == 0:
        groups = scale.shape[1]
        padded = torch.zeros(len(scale), -(-groups // 4) * 4, device="cuda")
        padded[:, :groups] = scale
        grid = padded[:, :groups].t()

        def torch_block() -> torch.Tensor:
            codes, x_scale = quantize()
            column = x_scale.t().contiguous().t()
            blocks = kinds.BlockWise1x128, kinds.BlockWise128x128
            return F.scaled_mm(codes, w.t(), column, blocks[0], grid, blocks[1], output_dtype=BF16)

        found["peer torch"] = torch_block
    if os.environ.get("VLLM_C") and len(x) % 4 == 0:

        def cutlass() -> torch.Tensor:
            codes, x_scale = quantize()
            torch.ops._C.cutlass_scaled_mm(y, codes, w.t(), x_scale.t().contiguous().t(), scale.t(), None)
            return y

        found["peer CUTLASS"] = cutlass
    if find_spec("deep_gemm") is not None:
        import deep_gemm

        def deep() -> torch.Tensor:
            codes, x_scale = quantize()
            deep_gemm.fp8_gemm_nt((codes, deep_gemm.get_mn_major_tma_aligned_tensor(x_scale)), (w, scale), y)
            return y

        found["peer DeepGEMM"] = deep
    return found


def quantized(kind: str, plain: torch.Tensor) -> Pair:
    """A weight's codes, and its scales by row or block."""
    num_rows, num_cols = plain.shape
    size = (1, num_cols) if kind == "row" else (128, 128)
    pieces = plain.float().view(num_rows // size[0], size[0], num_cols // size[1], size[1])
    scale = pieces.abs().amax((1, 3)) / 448
    return (pieces / scale[:, None, :, None]).to(F8).view(num_rows, num_cols), scale


def runs(kind: str, x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> dict[str, Run]:
    """Every pipeline from bf16 to bf16."""
    weights = LinearWeights(
        scheme=SCHEMES[kind], shape=(len(w), w.shape[1]),
        parts=(Part("0", slice(0, len(w)), slice(0, len(scale))),), weight=w, weight_scale=scale,
    )  # fmt: skip
    device, found = device_of(w.device), {}
    for backend in provider(device):
        if backend.name not in ASIDE and isinstance(backend.supports(SCHEMES[kind], weights.shape, device), Yes):
            found[backend.name] = partial(backend.apply, backend.prepare(weights), x)
    return {**found, **(row_peers if kind == "row" else block_peers)(x, w, scale)}


def cell(
    kind: str, name: str, x: torch.Tensor, weight: tuple[torch.Tensor, ...], flush: torch.Tensor
) -> dict[str, Any]:
    """One row of the table: times in a graph, without one, and errors against the first peer's operands."""
    w, scale, plain = weight
    shape = w.shape
    row: dict[str, Any] = {"kind": kind, "shape": name, "N": shape[0], "K": shape[1], "M": len(x)}
    expected = None
    found = {"bf16": lambda: F.linear(x, plain), **runs(kind, x, w, scale)}
    found = {label: run for label, run in found.items() if label not in SLOW or len(x) <= 64}
    for label, run in found.items():
        y = run().double()
        expected = y if expected is None else expected
        row[f"{label} error"] = round(float((y - expected).norm() / expected.norm()), 4)
        row[f"{label} eager"] = round(float(do_bench(run, warmup=2, rep=10, return_mode="median")) * 1e3, 1)
    # Forth and back: a GPU that has been busy for long is slower, whoever comes last.
    times = {label: [graph_us(run, flush, 12)] for label, run in found.items()}
    for label in reversed(found):
        times[label].append(graph_us(found[label], flush, 12))
    return {**row, **{label: round(sum(each) / 2, 1) for label, each in times.items()}}


def main(out: Path, kinds: tuple[str, ...]) -> None:
    if os.environ.get("VLLM_C"):
        torch.ops.load_library(os.environ["VLLM_C"])
    big = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    rate = 2 * big.numel() / (float(do_bench(big.clone, warmup=3, rep=15, return_mode="median")) * 1e3)
    flush, rows = big[: 256 << 20], []
    for kind in kinds:
        for name, (num_rows, num_cols) in SHAPES.items():
            plain = torch.randn(num_rows, num_cols, device="cuda", dtype=BF16) * 0.02
            w, scale = quantized(kind, plain)
            for num_tokens in TOKENS:
                x = torch.randn(num_tokens, num_cols, device="cuda", dtype=BF16)
                row = cell(kind, name, x, (w, scale, plain), flush)
                nbytes = num_rows * num_cols + 2 * num_tokens * (num_rows + num_cols)
                row["limit"] = round(max(nbytes / rate, 2e-6 * num_tokens * num_rows * num_cols / 1979), 1)
                rows.append(row)
                print({key: value for key, value in row.items() if "error" not in key}, flush=True)
                out.write_text(json.dumps({"copy GB/s": rate / 1e3, "torch": torch.__version__, "cells": rows}))
        show(kind, [row for row in rows if row["kind"] == kind])


def show(kind: str, rows: list[dict[str, Any]]) -> None:
    """What the first backend in order, and the fastest one, are beside the fastest peer: geometric mean and worst cell."""
    for suffix in ("", " eager"):
        for title, ours in (("first", lambda row: first(row, suffix)), ("best", lambda row: min(mine(row, suffix)))):
            rows = [row for row in rows if peers(row, suffix)]
            ratios = [min(peers(row, suffix)) / ours(row) for row in rows]
            worst = min(range(len(rows)), key=ratios.__getitem__)
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"{kind}{suffix}: {title} of ours {mean:.3f} times the best peer, worst {ratios[worst]:.2f} at "
                  f"{rows[worst]['shape']} M={rows[worst]['M']}")  # fmt: skip


def peers(row: dict[str, Any], suffix: str) -> list[float]:
    return [value for key, value in row.items() if key.startswith("peer") and _plain(key, suffix)]


def mine(row: dict[str, Any], suffix: str) -> list[float]:
    names = [backend.name + suffix for backend in provider(device_of(torch.device("cuda")))]
    return [row[name] for name in names if name in row and name not in (f"{each}{suffix}" for each in SLOW)]


def first(row: dict[str, Any], suffix: str) -> float:
    return mine(row, suffix)[0]


def _plain(key: str, suffix: str) -> bool:
    return "error" not in key and key.endswith(" eager") == bool(suffix)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or tuple(SCHEMES))
