"""Loading on the CPU against the floor: the same bytes read by as many threads into fresh huge-page memory.

Page cache warm, one process for each run, interleaved; medians and ratios count, not absolute times.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NUM_LAYERS = 8
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB = 4096, 14336, 32, 8, 32000
CONFIG = {
    "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "head_dim": HIDDEN // HEADS,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
}  # fmt: skip
CHUNK = 8 << 20


def make(folder: Path) -> Path:
    """A block-FP8 llama of 2.2 GB in four shards, random codes, scales 2 ** -12."""
    import torch
    from safetensors.torch import save_file

    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(4)]
    kv = KV_HEADS * HIDDEN // HEADS
    wide, narrow, up, down = (HIDDEN, HIDDEN), (kv, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)
    attention = {"q_proj": wide, "k_proj": narrow, "v_proj": narrow, "o_proj": wide}
    mlp = {"gate_proj": up, "up_proj": up, "down_proj": down}
    matrices = {f"self_attn.{k}": v for k, v in attention.items()} | {f"mlp.{k}": v for k, v in mlp.items()}
    for layer in range(NUM_LAYERS):
        at, shard = f"model.layers.{layer}", shards[layer * 4 // NUM_LAYERS]
        for name, (rows, cols) in matrices.items():
            codes = torch.randint(0, 127, (rows, cols), dtype=torch.uint8)
            shard[f"{at}.{name}.weight"] = codes.view(torch.float8_e4m3fn)
            shard[f"{at}.{name}.weight_scale_inv"] = torch.full((-(-rows // 128), -(-cols // 128)), 2.0**-12)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shard[f"{at}.{norm}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    shards[0]["model.embed_tokens.weight"] = torch.zeros(VOCAB, HIDDEN, dtype=torch.bfloat16)
    shards[3]["model.norm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    shards[3]["lm_head.weight"] = torch.zeros(VOCAB, HIDDEN, dtype=torch.bfloat16)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-00004.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run_floor(folder: Path) -> dict[str, float]:
    """Every byte of every shard into one fresh huge-page mapping, four threads, 8 MiB reads."""
    files = sorted(folder.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    handles = [os.open(file, os.O_RDONLY) for file in files]
    begin = time.perf_counter()
    memory = mmap.mmap(-1, -(-total // (2 << 20)) * (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    view, work, at = memoryview(memory), [], 0
    for file, handle in zip(files, handles, strict=True):
        size = file.stat().st_size
        work += [(handle, offset, at + offset, min(CHUNK, size - offset)) for offset in range(0, size, CHUNK)]
        at += size
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda item: os.preadv(item[0], [view[item[2] : item[2] + item[3]]], item[1]), work))
    return {"seconds": time.perf_counter() - begin, "nbytes": total}


def run_fp8load(folder: Path) -> dict[str, float]:
    """`fp8load.load`, plan and seal included; and without the imports of torch."""
    import fp8load
    import fp8load.runtime.model  # torch's import is not what is measured

    before = peak_mib()
    begin = time.perf_counter()
    model = fp8load.load(folder)
    seconds = time.perf_counter() - begin
    nbytes = model.plan.nbytes
    return {"seconds": seconds, "nbytes": nbytes, "extra_mib": peak_mib() - before - nbytes / 2**20}


def run_safetensors(folder: Path) -> dict[str, float]:
    """safetensors.torch.load_file and a copy into fused tensors: what engines do on a CPU."""
    import torch
    from safetensors.torch import load_file

    begin = time.perf_counter()
    kept, nbytes = {}, 0
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            for parts in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
                if f".{parts[0]}." in name:
                    kept[name] = torch.cat([tensors[name.replace(parts[0], part)] for part in parts])
                    break
            else:
                if not any(f".{part}." in name for part in ("k_proj", "v_proj", "up_proj")):
                    kept[name] = tensor.clone()
            nbytes += tensor.nbytes
    return {"seconds": time.perf_counter() - begin, "nbytes": nbytes}


RUNS = {"floor": run_floor, "fp8load": run_fp8load, "safetensors + copy": run_safetensors}


def measure(folder: Path, repeats: int = 5) -> dict[str, dict[str, float]]:
    """Medians over `repeats` processes of each kind, interleaved, after one round that warms the page cache."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for i in range(repeats + 1):
        for name in RUNS:
            out = subprocess.run(
                [sys.executable, __file__, str(folder), name], check=True, capture_output=True, text=True
            )
            if i:
                found[name].append(json.loads(out.stdout.splitlines()[-1]))
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}


if __name__ == "__main__":
    print(json.dumps(RUNS[sys.argv[2]](Path(sys.argv[1]))))
