"""Block FP8 layers on a GPU, bf16 in and out, quantization included: our backends and the peers', in one run.

python tests/benchmarks/products.py OUT.json. What `fp8load bench gemm` measures, of block layers, in the form that is
kept in docs/benchmarks: microseconds, `limit` among them, and errors. Peers quantize by vLLM's kernels where VLLM_C
names its library, else by ours.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from fp8load_kernels.backends.deepgemm import DeepGemm
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.backends.triton_block import TritonBlock
from fp8load_kernels.bench.gemm import GemmBench
from fp8load_kernels.bench.peer_list import all_peers
from fp8load_kernels.bench.peers.quantizers import quantizer_name
from fp8load_kernels.bench.shapes import SHAPES, TOKENS, sized

OURS = (TritonBlock(), TorchBlock(), DeepGemm())


def cells(bench: GemmBench) -> Iterator[dict[str, Any]]:
    """A row for each shape and number of tokens."""
    for (case, num_tokens), found in groupby(bench.rows, key=lambda row: (row.case, row.num_tokens)):
        rows = list(found)
        yield {
            "shape": case.name, "M": num_tokens, "N": case.shape[0], "K": case.shape[1], "limit": rows[0].limit_us,
            "us": {row.name: row.us for row in rows}, "error": {row.name: row.error for row in rows},
        }  # fmt: skip


def main(out: Path) -> None:
    bench = GemmBench.on(torch.device("cuda"), seed=int.from_bytes(os.urandom(4), "big"))
    cases = [sized(name, shape, "block") for name, shape in SHAPES.items()]
    bench.measure(cases, TOKENS, OURS, all_peers(), lambda done, total, what: print(f"{done}/{total} {what}"))
    rows = list(cells(bench))
    for row in rows:
        times = "  ".join(f"{key} {time:.1f}" for key, time in row["us"].items())
        error = max(row["error"].values())
        print(f"{row['shape']:<15} {row['M']:>5} limit {row['limit']:.1f}  {times}  error {error:.4f}")
    for one in bench.failed:
        print(f"failed: {one.case.name} {one.num_tokens} {one.name}: {one.reason}")
    versions = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "seed": bench.seed}
    quantization = f"{quantizer_name()} quantization"
    out.write_text(json.dumps({**versions, "quantization": quantization, "rows": rows}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
