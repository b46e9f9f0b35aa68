"""Experts of a layer on a GPU, bf16 in, routing, quantization and the sum over experts included.

    python tests/benchmarks/experts.py OUT.json [--shapes ...] [--schemes ...] [--tokens ...] [--sweep]

Every grouped backend that takes the layer, bf16 through `torch._grouped_mm` between our own sorting, activation and
sum, and one expert after the other through the best backend of layers. Microseconds, medians of do_bench (L2
flushed): `us` called from Python, `graph` as a captured graph, as engines decode; `parts` where a backend's time
goes. `limit` is the larger of bytes over the copy's bandwidth and operations over 1979 TFLOP/s (989 where inputs stay
in bf16). `error` is against bf16, of which inputs in FP8 are 3 to 5 %, and `apart` against the Triton product, of FP8
where that takes the layer, else weight-only. --sweep times tiles of that product instead. OUT.json is written after
each shape, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from fp8load.dtypes import DType
from fp8load.runtime.activation import Activation
from fp8load.runtime.backend import Yes, device_of
from fp8load.runtime.choose import Choice
from fp8load.runtime.grouped import OneByOne
from fp8load.runtime.layers import FusedExperts
from fp8load.runtime.routing import Routing
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerToken, QuantSpec, SecondLevel, Storage
from fp8load_kernels.gpu import grouped as product
from fp8load_kernels.gpu import tiles
from fp8load_kernels.gpu import weight_only_grouped as product_16
from fp8load_kernels.gpu.activation import activate
from fp8load_kernels.gpu.block import Tile
from fp8load_kernels.gpu.routing import combine, route
from fp8load_kernels.grouped import triton_grouped, weight_only_grouped
from fp8load_kernels.select import grouped_provider, provider

SHAPES = {  # experts, of each token, hidden, intermediate
    "deepseek-v3": (256, 8, 7168, 2048), "mixtral-8x7b": (8, 2, 4096, 14336), "qwen3-30b": (128, 8, 2048, 768),
    "gpt-oss-120b": (128, 4, 2880, 2880), "gpt-oss-20b": (32, 4, 2880, 2880),
}  # fmt: skip
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 8192)
BF16 = torch.bfloat16
SILU = Activation("silu")


def spec(granularity: Any, scale: DType | None = DType.F32) -> QuantSpec:
    return QuantSpec(dtype=DType.F8_E4M3, granularity=granularity, scale_dtype=scale)


def group(dtype: DType, cols: int, scale: DType) -> QuantSpec:
    return QuantSpec(dtype=dtype, granularity=PerGroup(cols), scale_dtype=scale)


PACKED = Storage(elements_per_byte=2)
SCHEMES = {
    "channel": LinearScheme(weight=spec(PerChannel()), input=spec(PerToken(), None)),
    "block": LinearScheme(weight=spec(PerBlock(128, 128)), input=spec(PerGroup(128), None)),
    "weight-only": LinearScheme(weight=spec(PerChannel())),
    "mxfp8": LinearScheme(weight=group(DType.F8_E4M3, 32, DType.F8_E8M0)),
    "mxfp4": LinearScheme(weight=group(DType.F4, 32, DType.F8_E8M0), storage=PACKED),
    "nvfp4": LinearScheme(
        weight=group(DType.F4, 16, DType.F8_E4M3), second_level=SecondLevel(dtype=DType.F32), storage=PACKED
    ),
    "int4": LinearScheme(weight=group(DType.I4, 128, DType.BF16), storage=PACKED),
}
TILES = [
    Tile(16, 32, 4, 5), Tile(16, 64, 4, 5), Tile(16, 128, 4, 4), Tile(32, 64, 4, 4), Tile(32, 128, 4, 4),
    Tile(64, 64, 4, 4), Tile(64, 128, 4, 4), Tile(64, 128, 4, 5), Tile(64, 256, 8, 3), Tile(128, 128, 8, 3),
    Tile(128, 128, 8, 4), Tile(128, 128, 4, 4), Tile(128, 256, 8, 3),
]  # fmt: skip
TILES_16 = [
    (m, n, k, num_warps, num_stages)
    for m, sizes in {16: (64, 128), 32: (64, 128), 64: (64, 128), 128: (128,)}.items() for n in sizes
    for k in (64, 128) for num_warps in (4, 8) for num_stages in (2, 3, 4)
]  # fmt: skip
"""Of the weight-only product; k in bytes of a row of W."""

OWN_FIRST = ("triton_grouped", "weight_only_grouped", "torch_grouped", "deepgemm_grouped")
Run = Callable[[], Any]


def us(run: Run) -> float:
    return float(do_bench(run, warmup=10, rep=40, return_mode="median")) * 1e3


def in_graph(run: Run) -> float:
    """The same, captured."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return us(graph.replay)


def made(shape: tuple[int, int, int, int], scheme: LinearScheme) -> FusedExperts:
    """Random codes, filled where they lie; numbers of a size that bf16 and E4M3 hold."""
    num_experts, _, hidden, inner = shape
    layer = FusedExperts(num_experts, hidden, inner, scheme=scheme, name="experts", device="cuda")
    for stack in (layer.w13, layer.w2):
        codes = stack.weight.detach().view(torch.uint8)
        for one in codes:
            one.copy_(torch.randint(0, 256, one.shape, dtype=torch.uint8, device="cuda"))
            if scheme.weight.dtype is DType.F8_E4M3:
                one.bitwise_and_(0xB7)  # up to 0.94
        size = 1.5 * stack.shape[2] ** -0.5 / (1 if scheme.weight.dtype is DType.F8_E4M3 else 4)
        scale = torch.empty(stack.weight_scale.shape, device="cuda").uniform_(0.5, 1.5)
        if scheme.weight.scale_dtype is DType.F8_E8M0:
            scale = scale.mul_(size).log2_().round_().exp2_()
        elif scheme.second_level is None:
            scale.mul_(size)
        else:  # E4M3 has few numbers of this size
            stack.weight_global_scale.detach().fill_(size)
        stack.weight_scale.detach().copy_(scale.to(stack.weight_scale.dtype))
        for param in stack.parameters():
            for slot in param.written:
                param.mark_written(slot)
    return layer


def plain(layer: FusedExperts) -> tuple[torch.Tensor, torch.Tensor]:
    """Both weights in bf16."""
    found = []
    for stack in (layer.w13, layer.w2):
        w = torch.empty(stack.shape, dtype=BF16, device="cuda")
        for at in range(len(w)):
            w[at] = stack._weights().expert(at).dequantize()
        found.append(w)
    return found[0], found[1]


def of_bf16(x: torch.Tensor, share: torch.Tensor, ids: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    routing = route(ids, range(len(weights[0])), 16)
    y = torch._grouped_mm(x[routing.token.clamp_min(0)], weights[0].transpose(1, 2), offs=routing.starts[1:])
    y = torch._grouped_mm(activate(y, SILU, routing), weights[1].transpose(1, 2), offs=routing.starts[1:])
    return combine(y, routing, share)


def through(layer: FusedExperts, backend: Any) -> None:
    """Let a backend run both products."""
    for stack in (layer.w13, layer.w2):
        stack._choice, stack._prepared = Choice(backend, ()), None
    layer.finalize()


def parts(layer: FusedExperts, x: torch.Tensor, share: torch.Tensor, ids: torch.Tensor) -> dict[str, float]:
    backend = layer.w13.backend
    alignment = backend.alignment(ids.numel(), layer.w13.shape)
    routing: Routing = backend.route(ids, layer.experts, alignment)
    first = layer.w13.rows(x, routing)
    second = layer.w2.rows(first, routing, SILU)
    return {
        "route": in_graph(partial(backend.route, ids, layer.experts, alignment)),
        "w13": in_graph(partial(layer.w13.rows, x, routing)),
        "w2": in_graph(partial(layer.w2.rows, first, routing, SILU)),
        "combine": in_graph(partial(backend.combine, second, routing, share)),
        "rows": routing.num_rows,
    }


def limit(shape: tuple[int, int, int, int], scheme: LinearScheme, ids: torch.Tensor, rate: float) -> float:
    _, _, hidden, inner = shape
    nbytes = len(ids.unique()) * 3 * hidden * inner * scheme.weight.dtype.bits / 8 + len(ids) * hidden * 6
    return max(nbytes / rate, 6 * ids.numel() * hidden * inner / (989e6 if scheme.input is None else 1979e6))


def inputs(shape: tuple[int, int, int, int], num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    num_experts, k, hidden, _ = shape
    torch.manual_seed(num_tokens)
    x = torch.randn(num_tokens, hidden, device="cuda", dtype=BF16)
    x[:, ::97] *= 8
    logits = torch.randn(num_tokens, num_experts, device="cuda")
    share, ids = logits.softmax(-1).topk(k)
    return x, share / share.sum(-1, keepdim=True), ids


def cell(layer: FusedExperts, weights: Any, given: tuple[torch.Tensor, ...], found: dict[str, Any]) -> None:
    """Fill in one row: every backend on one number of tokens."""
    x, share, ids = given
    device, scheme = device_of(x.device), layer.scheme
    reference = of_bf16(x, share, ids, weights)
    found["us"]["bf16"], found["graph"]["bf16"] = (
        us(partial(of_bf16, x, share, ids, weights)),
        in_graph(partial(of_bf16, x, share, ids, weights)),
    )
    own: torch.Tensor | None = None
    for backend in sorted(grouped_provider(device), key=lambda one: OWN_FIRST.index(one.name)):
        taken = (backend.supports(scheme, stack.shape, device) for stack in (layer.w13, layer.w2))
        if not all(isinstance(verdict, Yes) for verdict in taken):
            continue
        through(layer, backend)
        y = layer(x, share, ids)
        own = y if own is None else own
        found["error"][backend.name] = ((y - reference).norm() / reference.norm()).item()
        found["apart"][backend.name] = ((y - own).norm() / own.norm()).item()
        run = partial(layer, x, share, ids)
        found["us"][backend.name], found["graph"][backend.name] = us(run), in_graph(run)
        found["parts"][backend.name] = parts(layer, x, share, ids)
    if len(x) in (1, 64, 4096):
        shape = layer.w13.matrix_shape
        takes = [each for each in provider(device) if isinstance(each.supports(scheme, shape, device), Yes)]
        one = OneByOne(takes[0])
        through(layer, one)
        found["us"][f"one by one, {one.name}"] = us(partial(layer, x, share, ids))


def sweep(layer: FusedExperts, given: tuple[torch.Tensor, ...], found: dict[str, Any]) -> None:
    """Both products of the Triton backend with every tile; rows are aligned to the tile."""
    x, _, ids = given
    by_16 = layer.scheme.input is None
    kernel, backend = (product_16, weight_only_grouped) if by_16 else (product, triton_grouped)
    chosen, aligned = kernel.tile_of_groups, backend.rows_of_tile
    through(layer, weight_only_grouped.WeightOnlyGrouped() if by_16 else triton_grouped.TritonGrouped())
    try:
        for tile in [of_16(layer.scheme, *sizes) for sizes in TILES_16] if by_16 else TILES:
            kernel.tile_of_groups = lambda *_, tile=tile, **__: tile
            backend.rows_of_tile = lambda *_, tile=tile: tile.m
            try:
                times = parts(layer, x, torch.ones(ids.shape, device="cuda"), ids)
            except OutOfResources as error:  # a tile that does not fit into shared memory is an answer too
                found["tiles"][str(tuple(tile))] = str(error)[:80]
                continue
            found["tiles"][str(tuple(tile))] = times
    finally:
        kernel.tile_of_groups, backend.rows_of_tile = chosen, aligned


def of_16(scheme: LinearScheme, m: int, n: int, k: int, num_warps: int, num_stages: int) -> tiles.Tile:
    """A tile of the weight-only product; k in bytes of a row of W, at most a group where sums are scaled."""
    cols = k * scheme.storage.elements_per_byte
    whole = scheme.weight.granularity
    if isinstance(whole, PerGroup) and whole.cols >= 64:
        cols = min(cols, whole.cols)
    return tiles.Tile(m, n, cols, 1, num_warps, num_stages)


def main() -> None:
    """Everything that was asked for, one line for each cell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES))
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    big = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    rate = 2 * big.numel() / us(big.clone)
    del big
    rows: list[dict[str, Any]] = []
    for name in options.shapes:
        for kind in options.schemes:
            layer = made(SHAPES[name], SCHEMES[kind])
            weights = None if options.sweep else plain(layer)
            for num_tokens in options.tokens:
                given = inputs(SHAPES[name], num_tokens)
                row: dict[str, Any] = {"shape": name, "scheme": kind, "T": num_tokens}
                row["limit"] = limit(SHAPES[name], SCHEMES[kind], given[2], rate)
                row |= {key: {} for key in ("us", "graph", "error", "apart", "parts", "tiles")}
                sweep(layer, given, row) if options.sweep else cell(layer, weights, given, row)
                rows.append(row)
                times = row["tiles"] if options.sweep else row["graph"]
                print(name, kind, num_tokens, f"limit {row['limit']:.0f}", json.dumps(times), flush=True)
            del layer, weights
            torch.cuda.empty_cache()
            versions = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "bytes_per_us": rate}
            options.out.write_text(json.dumps({**versions, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
