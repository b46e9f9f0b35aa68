"""FP8 layers on a GPU, bf16 in and out, quantization included: our backends and the peers', in one run.

python tests/benchmarks/products.py OUT.json [channel] [block] [graph] [eager]. What `fp8load bench gemm` measures, in
the form that is kept in docs/benchmarks: microseconds, `limit` among them, and errors; in captured graphs and eager.
Peers quantize by vLLM's kernels where VLLM_C names its library, else by ours. TOKENS=1,16 for other numbers of tokens.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch

from fp8load.runtime.backend import device_of
from fp8load_kernels.bench.gemm import GemmBench
from fp8load_kernels.bench.peer_list import BASELINE, all_peers
from fp8load_kernels.bench.peers.quantizers import quantizer_name
from fp8load_kernels.bench.shapes import SHAPES, TOKENS, sized
from fp8load_kernels.select import provider

ASIDE = ("emulated", "reference")
SLOW = ("weight_only",)
"""Measured for few tokens only: none's choice here for many."""

FEW = 64
KINDS, WAYS = ("channel", "block"), ("graph", "eager")


def cells(bench: GemmBench) -> Iterator[dict[str, Any]]:
    """A row for each shape and number of tokens."""
    for (case, num_tokens), found in groupby(bench.rows, key=lambda row: (row.case, row.num_tokens)):
        rows = list(found)
        yield {
            "shape": case.name, "M": num_tokens, "N": case.shape[0], "K": case.shape[1],
            "limit": round(rows[0].limit_us, 1), "us": {row.name: round(row.us, 1) for row in rows},
            "peers": [row.name for row in rows if row.peer and row.name != BASELINE],
            "error": {row.name: round(row.error, 5) for row in rows},
        }  # fmt: skip


def measured(kind: str, *, graph: bool, seed: int) -> list[dict[str, Any]]:
    """All cells of a kind of scheme."""
    device = torch.device("cuda")
    backends = [backend for backend in provider(device_of(device)) if backend.name not in ASIDE]
    bench = GemmBench.on(device, seed=seed, graph=graph)
    cases = [sized(name, shape, kind) for name, shape in SHAPES.items()]
    for case, num_tokens in product(cases, tokens()):
        ours = [backend for backend in backends if num_tokens <= FEW or backend.name not in SLOW]
        bench.measure([case], [num_tokens], ours, all_peers())
    for one in bench.failed:
        print(f"failed: {one.case.name} {one.num_tokens} {one.name}: {one.reason}")
    return list(cells(bench))


def tokens() -> tuple[int, ...]:
    """The numbers of tokens of docs/benchmarks, or those that are asked for."""
    asked = os.environ.get("TOKENS")
    return tuple(int(each) for each in asked.split(",")) if asked else TOKENS


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the backend that is chosen, and the fastest one, are beside the fastest peer: geometric mean, worst cell."""
    found = {}
    for title in ("chosen", "fastest"):
        ratios = []
        for row in (row for row in rows if row["peers"]):
            ours = [us for name, us in row["us"].items() if name not in (*row["peers"], BASELINE, *SLOW)]
            mine = ours[0] if title == "chosen" else min(ours)
            ratios.append((min(row["us"][name] for name in row["peers"]) / mine, f"{row['shape']} M={row['M']}"))
        mean = math.exp(sum(math.log(ratio) for ratio, _ in ratios) / len(ratios))
        found[title] = {"mean": round(mean, 3), "worst": [round(min(ratios)[0], 3), min(ratios)[1]]}
    return found


def main(out: Path, asked: tuple[str, ...]) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    versions = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "seed": seed}
    report: dict[str, Any] = {**versions, "quantization": f"{quantizer_name()} quantization"}
    for kind, how in product(KINDS, WAYS):
        if all({*asked} & {*group} in (set(), {one}) for one, group in ((kind, KINDS), (how, WAYS))):
            rows = measured(kind, graph=how == "graph", seed=seed)
            report[f"{kind}, {how}"] = {"summary": summary(rows), "cells": rows}
            for row in rows:
                times = "  ".join(f"{key} {time}" for key, time in row["us"].items())
                print(f"{kind} {how} {row['shape']:<14} {row['M']:>5} limit {row['limit']}  {times}  "
                      f"error {max(row['error'].values()):.4f}")  # fmt: skip
            print(kind, how, summary(rows), flush=True)
            out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]))
