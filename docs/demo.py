"""`make demo`: the whole path on a real checkpoint, and a check of it by arithmetic that shares no code with fp8load.

The checkpoint is a tiny llama written by transformers' FineGrainedFP8 quantizer: F8_E4M3 weights, one F32 multiplier
for each 128 x 128 block.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import fp8load

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path("fixtures/checkpoints/hf-llama256-fp8-block")
LAYER = "model.layers.0.self_attn.qkv_proj"
PARTS = [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]


def run(*command: str) -> None:
    """Show a command and what it prints."""
    print(f"\n$ fp8load {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "fp8load", *command], check=True, cwd=ROOT)


def stored(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder, by the safetensors format's description: F8 and BF16 as their codes, F32 as numbers."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype = {"F8_E4M3": "u1", "BF16": "<u2", "F32": "<f4"}[entry["dtype"]]
            found[name] = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype).reshape(entry["shape"])
    return found


def e4m3(codes: np.ndarray) -> np.ndarray:
    """Sign, four bits of exponent with bias 7, three bits of mantissa; exponent 0 is subnormal."""
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes >> 3 & 15).astype(np.float64), (codes & 7).astype(np.float64)
    return sign * np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def dequantized(folder: Path, modules: list[str]) -> np.ndarray:
    """float64 rows of several modules below each other: code times the scale of its block."""
    tensors = stored(folder)
    rows = []
    for module in modules:
        weight = e4m3(tensors[f"{module}.weight"])
        scale = np.repeat(np.repeat(tensors[f"{module}.weight_scale_inv"].astype(np.float64), 128, 0), 128, 1)
        rows.append(weight * scale[: weight.shape[0], : weight.shape[1]])
    return np.concatenate(rows)


def main() -> int:
    """Inspect, verify, plan, load, run one layer, and compare."""
    source = str(CHECKPOINT)
    run("inspect", source)
    run("verify", source, "--tp", "1")
    run("plan", source)
    run("plan", source, "--explain", f"{PARTS[1]}.weight_scale_inv")

    print("\n$ python")
    print(f">>> model = fp8load.load({source!r})")
    model = fp8load.load(ROOT / CHECKPOINT)
    layer = model[LAYER]
    print(f">>> layer = model[{LAYER!r}]\n{layer}")
    x_MK = torch.randn(8, layer.dequantize().shape[1], generator=torch.Generator().manual_seed(0))
    reference = fp8load.load(ROOT / CHECKPOINT, backend="reference")[LAYER]
    expected_MN = x_MK.double().numpy() @ dequantized(ROOT / CHECKPOINT, PARTS).T
    worst = 0.0
    for name, run_layer, limit in (("reference", reference, 1e-6), (layer.backend.name, layer, 5e-2)):
        y_MN = run_layer(x_MK).double().numpy()
        error = float(np.linalg.norm(y_MN - expected_MN) / np.linalg.norm(expected_MN))
        what = "weight-only, float32" if name == "reference" else "input quantized to FP8, as the configuration asks"
        print(f"backend {name:<16} relative error {error:.1e} against float64 ({what})")
        worst = max(worst, error / limit)
    print("\nok: the layer computes what the file says" if worst < 1 else "\nFAILED: the layer is wrong")
    return int(worst >= 1)


if __name__ == "__main__":
    sys.exit(main())
