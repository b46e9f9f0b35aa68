"""How fast verify reads values: scales, and whole weights, of files in the page cache.

    python tests/benchmarks/values.py [--folder DIR] [--repeats N] [--json FILE]

The goal is 1 GB/s of scales on two cores. Many small scales are bound by their number, not by their bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fp8load
from fp8load.index.layout import encode_header
from fp8load.index.quiet_gc import quiet_gc
from fp8load.index.skeleton import parse_skeleton
from fp8load.rules.samples import BLOCK, NVFP4
from fp8load.rules.scales import ScaleReader
from fp8load.rules.weights import WeightReader

GOAL = 1.0
"""GB/s of scales, on two cores."""

CASES = {
    "NVFP4: large scales": NVFP4
    + "model.layers.{0..15}.mlp.{gate,up}_proj.weight          U8       [16384, 8192]\n"
    + "model.layers.{0..15}.mlp.{gate,up}_proj.weight_scale    F8_E4M3  [16384, 1024]\n"
    + "model.layers.{0..15}.mlp.{gate,up}_proj.weight_scale_2  F32      []\n"
    + "model.layers.{0..15}.mlp.{gate,up}_proj.input_scale     F32      []\n",
    "DeepSeek-V3's experts: 44,544 small scales": BLOCK
    + "model.layers.{3..60}.mlp.experts.{0..255}.{gate,up,down}_proj.weight            F8_E4M3  [2048, 7168]\n"
    + "model.layers.{3..60}.mlp.experts.{0..255}.{gate,up,down}_proj.weight_scale_inv  F32      [16, 56]\n",
    "NVFP4 experts: 66,816 small scales": NVFP4
    + "model.layers.{3..60}.mlp.experts.{0..127}.{gate,up,down}_proj.weight          U8       [2048, 128]\n"
    + "model.layers.{3..60}.mlp.experts.{0..127}.{gate,up,down}_proj.weight_scale    F8_E4M3  [2048, 16]\n"
    + "model.layers.{3..60}.mlp.experts.{0..127}.{gate,up,down}_proj.weight_scale_2  F32      []\n"
    + "model.layers.{3..60}.mlp.experts.{0..127}.{gate,up,down}_proj.input_scale     F32      []\n",
    "float32 scales of blocks of 8 x 8": BLOCK.replace("[128, 128]", "[8, 8]")
    + "model.layers.{0..15}.mlp.down_proj.weight            F8_E4M3  [16384, 16384]\n"
    + "model.layers.{0..15}.mlp.down_proj.weight_scale_inv  F32      [2048, 2048]\n",
}
WEIGHTS = {
    "FP8 blocks": BLOCK
    + "model.layers.{0..15}.mlp.down_proj.weight            F8_E4M3  [8192, 8192]\n"
    + "model.layers.{0..15}.mlp.down_proj.weight_scale_inv  F32      [64, 64]\n",
    "NVFP4": NVFP4
    + "model.layers.{0..15}.mlp.down_proj.weight          U8       [8192, 8192]\n"
    + "model.layers.{0..15}.mlp.down_proj.weight_scale    F8_E4M3  [8192, 1024]\n"
    + "model.layers.{0..15}.mlp.down_proj.weight_scale_2  F32      []\n"
    + "model.layers.{0..15}.mlp.down_proj.input_scale     F32      []\n",
}


def make(folder: Path, skeleton: str, *, dense: bool) -> Path:
    """A checkpoint of one file; without `dense` its weights are a hole, which takes no space."""
    folder.mkdir(parents=True, exist_ok=True)
    index = parse_skeleton(skeleton)
    (file,) = index.files.values()
    metas = list(index.tensors.values())
    rng = np.random.default_rng(0)
    with (folder / file.name).open("wb") as out:
        out.write(encode_header(metas, file.header_nbytes, file.metadata))
        for meta in metas:
            is_scale = "scale" in meta.name
            if is_scale or dense:
                out.seek(meta.begin)
                out.write(content(rng, str(meta.dtype), meta.nbytes, is_scale=is_scale))
        out.truncate(file.nbytes)
    (folder / "config.json").write_text(json.dumps(index.config))
    return folder


def content(rng: np.random.Generator, dtype: str, nbytes: int, *, is_scale: bool) -> bytes:
    """Scales between 1e-3 and 2e-3, or positive codes; codes of weights without a NaN."""
    if dtype == "F32":
        return rng.uniform(1e-3, 2e-3, nbytes // 4).astype("<f4").tobytes()
    return rng.integers(1, 0x7E if is_scale else 0x7F, nbytes, dtype=np.uint8).tobytes()


def measured(folder: Path, reader: type[ScaleReader] | type[WeightReader], repeats: int) -> dict[str, Any]:
    """Median seconds after a run that fills the page cache, and GB/s of the bytes that are read."""
    times, nbytes, count = [], 0, 0
    for i in range(repeats + 1):
        with fp8load.open(folder) as checkpoint, quiet_gc():  # as `verify` does
            _ = checkpoint.lowered
            before, begin = checkpoint.source.meter.nbytes, time.perf_counter()
            count = len(reader(checkpoint).stats)
            elapsed = time.perf_counter() - begin
            nbytes = checkpoint.source.meter.nbytes - before
        if i:
            times.append(elapsed)
    seconds = statistics.median(times)
    return {"seconds": seconds, "nbytes": nbytes, "tensors": count, "gb_per_s": nbytes / seconds / 1e9}


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fp8load-bench-values")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for cases, reader, dense in ((CASES, ScaleReader, False), (WEIGHTS, WeightReader, True)):
        for number, (title, skeleton) in enumerate(cases.items()):
            folder = make(options.folder / f"{reader.__name__}-{number}", skeleton, dense=dense)
            found = figures[title] = measured(folder, reader, options.repeats)
            goal = f"goal {GOAL:g} GB/s" if reader is ScaleReader else ""
            print(f"{title:<45} {found['tensors']:>7,} tensors {found['nbytes'] / 1e6:>8,.0f} MB "
                  f"{found['seconds']:>6.2f} s {found['gb_per_s']:>6.2f} GB/s  {goal}")  # fmt: skip
    print(f"{os.cpu_count()} cores, numpy {np.__version__}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
