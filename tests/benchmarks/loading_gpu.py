"""Loading two large checkpoints beside limits and peers: what `fp8load bench load` measures, on files made here.

python tests/benchmarks/loading_gpu.py OUT.json [GB]. Makes, one after the other in a temporary folder (TMPDIR), a
checkpoint in the shape of Llama 3 70B with a scale for each channel (compressed-tensors) and one in the shape of
DeepSeek-V3 with blocks of 128 x 128, experts one by one, with random codes and as many layers or experts as GB (default
10) asks for. Prints a table for each and writes their reports. RUNS=5 for more runs than 3, DEVICE=cpu without a GPU.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

CODES, SCALES, VALUES = "F8_E4M3", "F32", "BF16"
ITEMSIZE = {CODES: 1, SCALES: 4, VALUES: 2}
POOL_NBYTES = 16 << 20
NUM_SHARDS = 5


class Stored(NamedTuple):
    """A tensor of the files."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in its file."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Llama:
    """Sizes of Llama 3 70B; tests make them small."""

    hidden: int = 8192
    intermediate: int = 28672
    heads: int = 64
    kv_heads: int = 8
    vocab: int = 128256
    layers: int = 1

    def sized(self, nbytes: float) -> Llama:
        """As many layers as these bytes hold."""
        one, two = (sum(each.nbytes for each in replace(self, layers=count).tensors()) for count in (1, 2))
        return replace(self, layers=max(1, 1 + round((nbytes - one) / (two - one))))

    def tensors(self) -> Iterator[Stored]:
        """In the order of the files."""
        hidden, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        matrices = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
                    "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
                    "mlp.gate_proj": (self.intermediate, hidden), "mlp.up_proj": (self.intermediate, hidden),
                    "mlp.down_proj": (hidden, self.intermediate)}  # fmt: skip
        yield Stored("model.embed_tokens.weight", VALUES, (self.vocab, hidden))
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            for name, (rows, cols) in matrices.items():
                yield Stored(f"{at}.{name}.weight", CODES, (rows, cols))
                yield Stored(f"{at}.{name}.weight_scale", VALUES, (rows, 1))
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield Stored(f"{at}.{norm}.weight", VALUES, (hidden,))
        yield Stored("model.norm.weight", VALUES, (hidden,))
        yield Stored("lm_head.weight", VALUES, (self.vocab, hidden))

    def config(self) -> dict[str, Any]:
        """config.json as llm-compressor writes it, FP8 dynamic."""
        common: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
        group = {"targets": ["Linear"], "weights": {**common, "strategy": "channel", "dynamic": False},
                 "input_activations": {**common, "strategy": "token", "dynamic": True}}  # fmt: skip
        return {
            "model_type": "llama", "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "vocab_size": self.vocab,
            "num_key_value_heads": self.kv_heads, "head_dim": self.hidden // self.heads, "tie_word_embeddings": False,
            "quantization_config": {
                "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
                "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
            },
        }  # fmt: skip


@dataclass(frozen=True)
class DeepSeek:
    """Sizes of DeepSeek-V3, one dense layer and then mixtures; tests make them small."""

    hidden: int = 7168
    intermediate: int = 18432
    moe_intermediate: int = 2048
    heads: int = 128
    q_rank: int = 1536
    kv_rank: int = 512
    nope: int = 128
    rope: int = 64
    vocab: int = 129280
    experts: int = 256
    layers: int = 2

    def sized(self, nbytes: float) -> DeepSeek:
        """All experts in as many layers as these bytes hold; where that is not one layer, fewer experts."""

        def total(**sizes: int) -> int:
            return sum(each.nbytes for each in replace(self, **sizes).tensors())

        layer = total(layers=3) - total(layers=2)
        if total(layers=2) <= nbytes:
            return replace(self, layers=2 + round((nbytes - total(layers=2)) / layer))
        eight = total(layers=2, experts=16) - total(layers=2, experts=8)
        count = 8 * max(1, 1 + round((nbytes - total(layers=2, experts=8)) / eight))
        return replace(self, layers=2, experts=min(count, self.experts))

    def tensors(self) -> Iterator[Stored]:
        """In the order of the files: each scale behind its weight, expert after expert."""
        yield Stored("model.embed_tokens.weight", VALUES, (self.vocab, self.hidden))
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield from self._attention(at)
            if layer == 0:
                yield from self._gated(f"{at}.mlp", self.intermediate)
                continue
            yield Stored(f"{at}.mlp.gate.weight", VALUES, (self.experts, self.hidden))
            yield Stored(f"{at}.mlp.gate.e_score_correction_bias", SCALES, (self.experts,))
            for expert in range(self.experts):
                yield from self._gated(f"{at}.mlp.experts.{expert}", self.moe_intermediate)
            yield from self._gated(f"{at}.mlp.shared_experts", self.moe_intermediate)
        yield Stored("model.norm.weight", VALUES, (self.hidden,))
        yield Stored("lm_head.weight", VALUES, (self.vocab, self.hidden))

    def _attention(self, at: str) -> Iterator[Stored]:
        for name, rows, cols in (("q_a_proj", self.q_rank, self.hidden),
                                 ("q_b_proj", self.heads * (self.nope + self.rope), self.q_rank),
                                 ("kv_a_proj_with_mqa", self.kv_rank + self.rope, self.hidden),
                                 ("kv_b_proj", self.heads * 2 * self.nope, self.kv_rank),
                                 ("o_proj", self.hidden, self.heads * self.nope)):  # fmt: skip
            yield from _blocks(f"{at}.self_attn.{name}", rows, cols)
        for name, size in (("self_attn.q_a_layernorm", self.q_rank), ("self_attn.kv_a_layernorm", self.kv_rank),
                           ("input_layernorm", self.hidden), ("post_attention_layernorm", self.hidden)):  # fmt: skip
            yield Stored(f"{at}.{name}.weight", VALUES, (size,))

    def _gated(self, at: str, inner: int) -> Iterator[Stored]:
        yield from _blocks(f"{at}.gate_proj", inner, self.hidden)
        yield from _blocks(f"{at}.up_proj", inner, self.hidden)
        yield from _blocks(f"{at}.down_proj", self.hidden, inner)

    def config(self) -> dict[str, Any]:
        """config.json as published, without the layer for multi-token prediction."""
        return {
            "model_type": "deepseek_v3", "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "moe_intermediate_size": self.moe_intermediate, "num_hidden_layers": self.layers, "vocab_size": self.vocab,
            "num_attention_heads": self.heads, "num_key_value_heads": self.heads, "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank, "qk_nope_head_dim": self.nope, "qk_rope_head_dim": self.rope,
            "v_head_dim": self.nope, "n_routed_experts": self.experts, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 8, "topk_group": 4,
            "num_nextn_predict_layers": 0, "tie_word_embeddings": False,
            "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                    "weight_block_size": [128, 128]},
        }  # fmt: skip


Shape = Llama | DeepSeek


def _blocks(name: str, rows: int, cols: int) -> Iterator[Stored]:
    yield Stored(f"{name}.weight", CODES, (rows, cols))
    yield Stored(f"{name}.weight_scale_inv", SCALES, (-(-rows // 128), -(-cols // 128)))


def make(folder: Path, shape: Shape, num_shards: int = NUM_SHARDS) -> int:
    """Write the checkpoint: shards of about the same size, index and config. Returns the bytes of its tensors."""
    folder.mkdir(parents=True)
    listed = list(shape.tensors())
    shards: list[list[Stored]] = [[] for _ in range(num_shards)]
    total, so_far = sum(each.nbytes for each in listed), 0
    for each in listed:
        shards[min(so_far * num_shards // total, num_shards - 1)].append(each)
        so_far += each.nbytes
    shards = [shard for shard in shards if shard]  # one tensor may be larger than a shard should be
    names = [f"model-{at + 1:05d}-of-{len(shards):05d}.safetensors" for at in range(len(shards))]
    weight_map = {each.name: name for name, shard in zip(names, shards, strict=True) for each in shard}
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return total


def _pools(seed: int) -> dict[str, bytes]:
    """What tensors are filled from: any code but NaN, numbers of a usual size. Little-endian, as files are."""
    draw = random.Random(seed)
    codes = bytes(code for code in range(256) if code & 0x7F != 0x7F)
    table = bytes(codes[byte % len(codes)] for byte in range(256))
    some = draw.randbytes(1 << 10)
    # The low bytes are random, the high ones those of about 2 ** -8: 0x3B8. in either format.
    values = b"".join(bytes((byte & 0x7F, 0x3B)) for byte in some)
    scales = b"".join(bytes((byte, byte, byte & 0x7F, 0x3B)) for byte in some)
    return {CODES: draw.randbytes(POOL_NBYTES).translate(table), VALUES: values * (POOL_NBYTES // len(values)),
            SCALES: scales * (POOL_NBYTES // len(scales))}  # fmt: skip


def _write(path: Path, tensors: Sequence[Stored]) -> None:
    """A safetensors file. Its data is one random pool again and again: making it is not the subject."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for each in tensors:
        header[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [at, at + each.nbytes]}
        at += each.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin, pools = 8 + len(text), _pools(len(tensors))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, begin + at)
        os.pwrite(descriptor, len(text).to_bytes(8, "little") + text, 0)

        def fill(each: Stored) -> None:
            offset, end = (begin + place for place in header[each.name]["data_offsets"])
            pool = memoryview(pools[each.dtype])
            while offset < end:
                offset += os.pwrite(descriptor, pool[: min(POOL_NBYTES, end - offset)], offset)

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            list(threads.map(fill, tensors))
    finally:
        os.close(descriptor)


def measured(name: str, shape: Shape, parent: Path, *, device: str, runs: int, out: Callable[[str], None]) -> Any:
    """The report of `bench load` on a checkpoint of this shape, which is removed afterwards; its table is handed to
    `out`."""
    from fp8load_cli.app import main
    from fp8load_cli.render.text import Style, draw
    from fp8load_cli.render.views.load import load_document
    from fp8load_cli.reports import BenchLoadReport

    folder, answer, start = parent / name, parent / f"{name}.json", time.perf_counter()
    nbytes, seconds = make(folder, shape), time.perf_counter() - start
    out(f"{name}: {shape}, {nbytes / 1e9:.2f} GB written in {seconds:.1f} s\n")
    try:
        code = main(
            ["bench", "load", str(folder), "--device", device, "--runs", str(runs), "--json", "-o", str(answer)]
        )
        if code:
            raise SystemExit(code)
    finally:
        shutil.rmtree(folder)
    report = BenchLoadReport.model_validate_json(answer.read_text())
    out(draw(load_document(report), Style()) + "\n")
    return json.loads(answer.read_text())


def main(words: Sequence[str]) -> None:
    """Both checkpoints, of which one at a time is on the disk."""
    nbytes, runs = float(words[1] if len(words) > 1 else 10) * 1e9, int(os.environ.get("RUNS", "3"))
    found = {}
    with tempfile.TemporaryDirectory(prefix="fp8load-loading-") as parent:
        for name, shape in (("llama-70b-channel", Llama()), ("deepseek-v3-block", DeepSeek())):
            found[name] = measured(name, shape.sized(nbytes), Path(parent), device=os.environ.get("DEVICE", "cuda"),
                                   runs=runs, out=print)  # fmt: skip
            Path(words[0]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
