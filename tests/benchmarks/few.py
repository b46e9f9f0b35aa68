"""Products for few tokens on a GPU: every way of cutting them up, beside the one that is chosen, torch's and bf16's.

python tests/benchmarks/few.py OUT.json [MODE ...]. Microseconds of a captured graph, L2 flushed before each replay,
medians. The kernels are compiled beforehand in as many processes as there are cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from triton.runtime.errors import OutOfResources

from fp8load.dtypes import DType
from fp8load_kernels.bench.clock import Clock
from fp8load_kernels.bench.shapes import SHAPES
from fp8load_kernels.gpu import few, tiles, unpack, weight_only
from fp8load_kernels.gpu.quantize import quantize_groups, quantize_rows

TOKENS = (1, 16, 64)
MODES = ("row codes", "block codes", "w8 channel", "w8 block", "mxfp8", "nvfp4", "mxfp4")
BF16 = torch.bfloat16
Run = Callable[[], Any]


def weights(mode: str, shape: tuple[int, int]) -> few.Weight | unpack.Coded:
    num_rows, num_cols = shape
    by_block = mode in ("block codes", "w8 block")
    grid = (-(-num_rows // 128), -(-num_cols // 128)) if by_block else (num_rows, 1)
    scale = torch.rand(grid, device="cuda") / 100
    if mode in ("nvfp4", "mxfp4"):
        codes = torch.randint(0, 256, (num_rows, num_cols // 2), dtype=torch.uint8, device="cuda")
        cols = 16 if mode == "nvfp4" else 32
        scales = torch.randint(100, 120, (num_rows, num_cols // cols), dtype=torch.uint8, device="cuda")
        kind = "e4m3" if mode == "nvfp4" else "e8m0"
        return unpack.Coded(codes, "e2m1", shape, scales, kind, (1, cols), None, scale.reshape(-1))
    codes = (torch.randn(num_rows, num_cols, device="cuda") * 30).to(torch.float8_e4m3fn)
    if mode == "mxfp8":
        scales = torch.randint(100, 120, (num_rows, num_cols // 32), dtype=torch.uint8, device="cuda")
        return unpack.Coded(codes, "hardware", shape, scales, "e8m0", (1, 32))
    if mode == "w8 block":
        return unpack.Coded(codes, "hardware", shape, scale, "float", (128, 128))
    if mode == "w8 channel":
        return unpack.Coded(codes, "hardware", shape, factor=scale.reshape(-1))
    return few.Weight(codes, scale, (128, 128) if by_block else None)


def runs(mode: str, x: torch.Tensor, w: Any) -> Callable[[tiles.Tile | None], Run]:
    if isinstance(w, unpack.Coded):
        return lambda tile: lambda: weight_only.few_tokens(x, w, None, tile)
    quantize = quantize_rows if mode == "row codes" else quantize_groups

    def make(tile: tiles.Tile | None) -> Run:
        def run() -> torch.Tensor:
            q = quantize(x, DType.F8_E4M3)
            return few.few_product(q.codes, q.scale, w, BF16, tile=tile)

        return run

    return make


def candidates(mode: str, num_tokens: int, shape: tuple[int, int]) -> Iterator[tiles.Tile]:
    """The chosen tile's neighbours."""
    m = 16 if num_tokens <= 16 else 64
    four_bits, by_block = mode in ("nvfp4", "mxfp4"), mode in ("block codes", "w8 block")
    widths = (256, 512) if four_bits else (128,) if by_block else (128, 256)
    alone = mode not in ("row codes", "block codes")
    heights = (64, 128) if alone and (num_tokens > 16 or four_bits) else (64,)
    for n, k, stages in product(heights, widths, (3, 5)):
        for splits in (1, 2, 4, 8):
            if 96 <= -(-shape[0] // n) * splits <= 700 and shape[1] // k // splits >= 2:
                yield tiles.Tile(m, n, k, splits, n // 16, stages)


def compile_all(job: tuple[str, tuple[int, int]]) -> int:
    """Run every candidate of a mode and shape once, which leaves the kernels in Triton's cache on disk."""
    mode, shape = job
    count = 0
    for num_tokens in TOKENS:
        x, w = torch.randn(num_tokens, shape[1], device="cuda", dtype=BF16), weights(mode, shape)
        make = runs(mode, x, w)
        for tile in (None, *candidates(mode, num_tokens, shape)):
            try:
                make(tile)()
                count += 1
            except OutOfResources as error:  # what does not fit is left out below, too
                print(mode, shape, tile, repr(error)[:120], flush=True)
    torch.cuda.synchronize()
    return count


def main(out: Path, modes: tuple[str, ...]) -> None:
    start = time.time()
    jobs = list(product(modes, SHAPES.values()))
    with ProcessPoolExecutor(min(15, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        count = sum(pool.map(compile_all, jobs))
    print(f"{count} compiled in {time.time() - start:.0f} s", flush=True)
    clock, rows = Clock(torch.device("cuda"), graph=True), []
    for mode, (name, shape) in product(modes, SHAPES.items()):
        w = weights(mode, shape)
        for num_tokens in TOKENS:
            x = torch.randn(num_tokens, shape[1], device="cuda", dtype=BF16)
            make, found = runs(mode, x, w), []
            for tile in candidates(mode, num_tokens, shape):
                try:
                    found.append((clock.us(make(tile)), tile))
                except OutOfResources:
                    continue
            found.sort()
            nbytes = w.codes.numel() + (0 if w.scale is None else w.scale.numel() * w.scale.element_size())
            plain = torch.randn(shape, device="cuda", dtype=BF16)
            row = {
                "mode": mode, "shape": name, "M": num_tokens, "limit": nbytes / 4.3e6,
                "chosen": clock.us(make(None)),
                "bf16": clock.us(lambda x=x, plain=plain: F.linear(x, plain)),
                "best": [(round(us, 1), *tile) for us, tile in found[:4]],
                "all": [(round(us, 1), *tile) for us, tile in found],
            }  # fmt: skip
            rows.append(row)
            print(f"{mode:11} {name:14} {num_tokens:3}  limit {row['limit']:5.1f} chosen {row['chosen']:6.1f} "
                  f"bf16 {row['bf16']:6.1f}  best {row['best'][:2]}", flush=True)  # fmt: skip
            out.write_text(json.dumps(rows))
    print(f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or MODES)
