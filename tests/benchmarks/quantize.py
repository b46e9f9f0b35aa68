"""Activation quantization on a GPU: ours, vLLM's kernels where VLLM_C names its library, and a copy of the same bytes.

python tests/benchmarks/quantize.py OUT.json. Medians of do_bench (which flushes the L2), microseconds; `share` is the
bytes that must move over the time, against a large device-to-device copy in the same run. MX and NVFP4 also by torch's
operations; of their codes each has a byte.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from fp8load.dtypes import DType
from fp8load.scheme import SharedExponent
from fp8load_kernels.bench.clock import Clock
from fp8load_kernels.bench.limits import copy_bandwidth
from fp8load_kernels.bench.peers.vllm import operators, refuses_library
from fp8load_kernels.gpu import quantize_micro
from fp8load_kernels.gpu.quantize import largest_scale, quantize_groups, quantize_rows, quantize_tensor
from fp8load_kernels.quantize_mx import quantize_mx
from fp8load_kernels.quantize_nvfp4 import quantize_nvfp4

COLUMNS = (1536, 4096, 7168, 8192, 14336, 16384, 28672)
TOKENS = (1, 16, 64, 512, 4096, 8192)
CLOCK = Clock(torch.device("cuda"))


def peers(x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """vLLM's kernels on the same input."""
    if refuses_library():
        return {}
    ops, (num_rows, num_cols) = operators(), x.shape
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    row = torch.empty(num_rows, 1, device=x.device)
    group = torch.empty(num_rows, num_cols // 128, device=x.device)
    bounds = (128, 1e-10, -448.0, 448.0, False, False, False)
    return {
        "vllm token": lambda: ops.dynamic_per_token_scaled_fp8_quant(codes, x, row, None),
        "vllm group": lambda: ops.per_token_group_fp8_quant(x, codes, group, *bounds),
    }


def measured(num_rows: int, num_cols: int, limit: float) -> dict[str, Any]:
    """One size: times, and shares of the bandwidth `limit` in bytes per microsecond."""
    x = torch.randn(num_rows, num_cols, device="cuda", dtype=torch.bfloat16)
    x[:, ::97] *= 20
    column = torch.empty(-(-num_cols // 128), -(-num_rows // 4) * 4, device="cuda").t()[:num_rows]
    scale = torch.full((1,), 0.01, device="cuda")
    runs: dict[str, Callable[[], Any]] = {
        "token": lambda: quantize_rows(x, DType.F8_E4M3),
        "group": lambda: quantize_groups(x, DType.F8_E4M3),
        "group, column-major": lambda: quantize_groups(x, DType.F8_E4M3, scale=column),
        "group, ue8m0": lambda: quantize_groups(x, DType.F8_E4M3, power_of_two=True),
        "tensor, static": lambda: quantize_tensor(x, DType.F8_E4M3, scale),
        "tensor, dynamic": lambda: quantize_tensor(x, DType.F8_E4M3, largest_scale(x, DType.F8_E4M3)),
        "mxfp8": lambda: quantize_micro.quantize_mx(x, DType.F8_E4M3, 32, SharedExponent.FLOOR),
        "mxfp4": lambda: quantize_micro.quantize_mx(x, DType.F4, 32, SharedExponent.FLOOR),
        "nvfp4": lambda: quantize_micro.quantize_nvfp4(x, scale, 16),
        "nvfp4, computed": lambda: quantize_micro.quantize_nvfp4(x, None, 16),
        "torch mxfp8": lambda: quantize_mx(x, DType.F8_E4M3),
        "torch mxfp4": lambda: quantize_mx(x, DType.F4),
        "torch nvfp4": lambda: quantize_nvfp4(x, scale),
        **peers(x),
    }
    times = {name: CLOCK.us(run) for name, run in runs.items()}
    nbytes = 3 * x.numel()
    shares = {name: nbytes / time / limit for name, time in times.items()}
    return {"M": num_rows, "K": num_cols, "us": times, "share": shares}


def main(out: Path) -> None:
    print(f"without vLLM: {refuses_library()}" if refuses_library() else "beside vLLM")
    limit = copy_bandwidth(CLOCK.device)
    rows = [measured(num_rows, num_cols, limit) for num_cols in COLUMNS for num_rows in TOKENS]
    versions = {"torch": torch.__version__, "triton": triton.__version__, "gpu": torch.cuda.get_device_name()}
    out.write_text(json.dumps({**versions, "copy_gb_s": limit / 1e3, "rows": rows}, indent=1))
    print(f"copy {limit / 1e3:.0f} GB/s")
    for row in rows:
        cells = "  ".join(f"{name} {time:.1f} ({row['share'][name]:.2f})" for name, time in row["us"].items())
        print(f"{row['M']:>5} x {row['K']:<6} {cells}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
