"""Experts through grouped backends: selection, the float64 sum over quantized operands, reloads, graphs.

Without a GPU the Triton product is interpreted, behind a backend that says yes on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import fp8load
from fp8load.dtypes import DType
from fp8load.errors import BackendError, UsageError
from fp8load.runtime import grouped
from fp8load.runtime.activation import activated, parse_activation
from fp8load.runtime.backend import Device, No, Yes
from fp8load.runtime.choose import Choice, choose_grouped
from fp8load.runtime.experts import ScaledLinearStack
from fp8load.runtime.grouped import OneByOne
from fp8load.runtime.layers import FusedExperts
from fp8load.runtime.routing import route
from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, PerToken, QuantSpec
from fp8load_kernels.backends.emulated import Emulated
from fp8load_kernels.grouped.deepgemm_grouped import DeepGemmGrouped
from fp8load_kernels.grouped.torch_grouped import TorchGrouped
from fp8load_kernels.grouped.triton_grouped import TritonGrouped
from fp8load_kernels.select import grouped_provider
from kernels.stacks import DEVICE, assert_a_graph_survives_a_reload, assert_rows_close, filled, refill, routed
from oracle.catalog import FOLDER
from runtime.cases import BLOCK, CHANNEL, DYNAMIC, MXFP8, STATIC, WEIGHT_ONLY, scheme

pytest.importorskip("triton", reason="needs triton")

GPU = torch.cuda.is_available()
HOPPER = GPU and torch.cuda.get_device_capability() == (9, 0)
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
H200 = Device(kind="cuda", capability=(9, 0), name="NVIDIA H200")
L40 = Device(kind="cuda", capability=(8, 9))
A100 = Device(kind="cuda", capability=(8, 0))
DEEPGEMM = find_spec("deep_gemm") is not None

EXPONENTS = replace(BLOCK, weight=replace(BLOCK.weight, scale_dtype=DType.F8_E8M0))
SCHEMES = {
    "static": STATIC, "dynamic": DYNAMIC, "channel": CHANNEL, "tensor, per token": scheme(given=PerToken()),
    "channel, static": scheme(PerChannel(), given=PerTensor(), static=True), "block": BLOCK, "exponents": EXPONENTS,
    "block 32 x 64": scheme(PerBlock(32, 64), given=PerGroup(64)),
}  # fmt: skip
E5M2 = replace(CHANNEL, weight=replace(CHANNEL.weight, dtype=DType.F8_E5M2))
MXFP6 = LinearScheme(weight=QuantSpec(dtype=DType.F6_E2M3, granularity=PerGroup(32), scale_dtype=DType.F8_E8M0))


class Anywhere(TritonGrouped):
    """On the CPU too, where Triton is interpreted."""

    name = "anywhere"

    def supports(self, scheme, shape_ENK, device):
        return super().supports(scheme, shape_ENK, H200)


@pytest.fixture(autouse=True)
def _announced(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = (lambda device: (*grouped_provider(device), Anywhere()),)
    monkeypatch.setattr(grouped, "grouped_providers", lambda: providers)


@pytest.mark.parametrize(("scheme_", "shape", "device", "name"), [
    (CHANNEL, (8, 256, 128), H200, "torch_grouped"), (STATIC, (8, 256, 128), H200, "torch_grouped"),
    (CHANNEL, (8, 250, 128), H200, "triton_grouped"), (CHANNEL, (8, 256, 128), L40, "triton_grouped"),
    (CHANNEL, (1024, 256, 128), H200, "triton_grouped"),
    (CHANNEL, (8, 256, 128), Device(kind="cuda", capability=(10, 0)), "triton_grouped"),
    (BLOCK, (8, 256, 128), H200, "deepgemm_grouped" if DEEPGEMM else "triton_grouped"),
    (BLOCK, (8, 200, 136), H200, "triton_grouped"), (SCHEMES["block 32 x 64"], (8, 256, 128), H200, "triton_grouped"),
    (CHANNEL, (8, 256, 128), A100, "weight_only_grouped"), (BLOCK, (8, 200, 136), A100, "weight_only_grouped"),
    (WEIGHT_ONLY, (8, 256, 128), H200, "weight_only_grouped"), (MXFP8, (8, 256, 128), H200, "weight_only_grouped"),
    (E5M2, (8, 256, 128), H200, "weight_only_grouped"), (MXFP6, (8, 256, 128), H200, "emulated"),
    (CHANNEL, (8, 256, 128), Device(kind="cuda", capability=(7, 5)), "emulated"),
    (CHANNEL, (8, 256, 128), Device(kind="cpu"), "reference"),
])  # fmt: skip
def test_the_first_that_takes_the_stack_runs_it(
    monkeypatch: pytest.MonkeyPatch, scheme_: LinearScheme, shape: tuple[int, int, int], device: Device, name: str
) -> None:
    monkeypatch.setattr(grouped, "grouped_providers", lambda: (grouped_provider,))

    choice = choose_grouped(scheme_, shape, device)

    assert choice.backend.name == name
    assert choice.why[-1].startswith(f"{name}: supports it")
    assert isinstance(choice.backend, OneByOne) == (name in ("emulated", "reference"))


@pytest.mark.parametrize(("backend", "scheme_", "shape", "device", "reason"), [
    (TritonGrouped(), WEIGHT_ONLY, (8, 64, 64), H200, "weight-only"),
    (TritonGrouped(), E5M2, (8, 64, 64), H200, "F8_E5M2"),
    (TritonGrouped(), CHANNEL, (8, 64, 64), Device(kind="cuda", capability=(8, 0)), "8.9"),
    (TritonGrouped(), CHANNEL, (8, 64, 64), Device(kind="cpu"), "cpu"),
    (TritonGrouped(), CHANNEL, (0, 64, 64), H200, "at least 1"),
    (TritonGrouped(), MXFP8, (8, 64, 64), H200, "per tensor or per row"),
    (TritonGrouped(), replace(BLOCK, input_static=True), (8, 64, 64), H200, "dynamic"),
    (TorchGrouped(), CHANNEL, (8, 64, 40), H200, "multiples of 16"),
    (TorchGrouped(), BLOCK, (8, 64, 64), H200, "block"),
    (TorchGrouped(), CHANNEL, (8, 64, 64), L40, "9.0"), (TorchGrouped(), CHANNEL, (2000, 64, 64), H200, "1023"),
    (DeepGemmGrouped(), CHANNEL, (8, 64, 128), H200, "blocks"),
    (DeepGemmGrouped(), BLOCK, (8, 64, 64), H200, "multiples of"), (DeepGemmGrouped(), BLOCK, (8, 64, 128), L40, "9.0"),
])  # fmt: skip
def test_it_says_what_it_does_not_take(backend, scheme_, shape, device: Device, reason: str) -> None:
    verdict = backend.supports(scheme_, shape, device)

    assert isinstance(verdict, No)
    assert reason in verdict.reason


def test_deepgemm_is_asked_for_by_its_extra() -> None:
    verdict = DeepGemmGrouped().supports(BLOCK, (8, 256, 256), H200)

    assert isinstance(verdict, Yes) if DEEPGEMM else "pip install fp8load[deepgemm]" in verdict.reason


def of_each(stack: ScaledLinearStack, x: torch.Tensor) -> torch.Tensor:
    """All rows of x through every expert, float32 [E, M, N]: inputs quantized as the scheme says, exact products."""
    bias = None if stack.bias is None else stack.bias.detach()
    prepared = OneByOne(Emulated()).prepare(stack._weights()).each
    each = [Emulated().apply(one, x.float(), None if bias is None else bias[at]) for at, one in enumerate(prepared)]
    return torch.stack(each)


def check(made: FusedExperts, x: torch.Tensor, share: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The rows of w13, and the sum over experts of what w2 makes of just these rows: one by one, in float32.

    Stage by stage, because a rounding that crosses a tie of FP8 makes another code of w2's input.
    """
    alignment = made.w13.backend.alignment(ids.numel(), made.w13.shape)
    routing = route(ids, made.experts, alignment)
    first, total = made.w13.rows(x, routing), made(x, share, ids)
    mine = (routing.expert >= 0).nonzero()[:, 0]
    expert = routing.expert[mine]
    limit = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[x.dtype] + (1e-2 if GPU else 0)
    assert_rows_close(first[mine], of_each(made.w13, x)[expert, routing.token[mine]], limit)
    h = activated(first[mine], parse_activation(made.activation)).to(x.dtype)
    y = torch.zeros(routing.num_rows + 1, made.w2.shape[1], device=x.device)
    y[mine] = of_each(made.w2, h)[expert, torch.arange(len(mine), device=x.device)]
    assert total.dtype == torch.float32
    assert_rows_close(total, (y[routing.position].double() * share[..., None]).sum(1), limit)
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if GPU else torch.float16])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_token_is_the_sum_over_its_experts(name: str, dtype: torch.dtype) -> None:
    made = filled(SCHEMES[name])
    x, (share, ids) = torch.randn(7, 256, device=DEVICE).to(dtype), routed(7, "any")

    assert (made.w13.backend.name, made.why[-1]) == ("anywhere", "anywhere: forced")
    check(made, x, share, ids)


@pytest.mark.parametrize("kind", ["one expert", "some without"])
@pytest.mark.parametrize("name", ["channel", "block", "static"])
def test_any_routing(name: str, kind: str) -> None:
    made = filled(SCHEMES[name])
    x, (share, ids) = torch.randn(20, 256, device=DEVICE), routed(20, kind)

    check(made, x, share, ids)


@pytest.mark.parametrize(("hidden", "inner"), [(100, 50), (131, 33)])
@pytest.mark.parametrize("name", ["channel", "tensor, per token"])
def test_odd_sizes_and_a_bias(name: str, hidden: int, inner: int) -> None:
    made = filled(SCHEMES[name], hidden=hidden, inner=inner, bias=DType.F32, activation="clamped-swiglu:7.0")
    x, (share, ids) = torch.randn(6, hidden, device=DEVICE), routed(6, "any")

    check(made, x, share, ids)


def test_parts_that_end_within_a_block_and_a_matrix_that_does() -> None:
    made = filled(BLOCK, hidden=200, inner=90)
    x, (share, ids) = torch.randn(6, 200, device=DEVICE), routed(6, "any")

    check(made, x, share, ids)


@pytest.mark.parametrize("name", ["channel", "block"])
def test_experts_without_a_gate(name: str) -> None:
    made = filled(SCHEMES[name], gated=False, activation="relu2")
    x, (share, ids) = torch.randn(6, 256, device=DEVICE), routed(6, "any")

    check(made, x, share, ids)


@pytest.mark.parametrize("name", ["dynamic", "channel", "block", "static"])
def test_what_expert_parallel_ranks_compute_adds_up(name: str) -> None:
    whole = filled(SCHEMES[name])
    x, (share, ids) = torch.randn(9, 256, device=DEVICE), routed(9, "any")
    total = torch.zeros(9, 256, device=DEVICE)
    for ep_rank in range(2):
        part = FusedExperts(
            4, 256, 192, scheme=SCHEMES[name], backend="anywhere", device=DEVICE, ep_rank=ep_rank, ep_size=2
        )
        for mine, theirs in ((part.w13, whole.w13), (part.w2, whole.w2)):
            for target, source in zip(mine.parameters(), theirs.parameters(), strict=True):
                target.detach().copy_(source.detach()[2 * ep_rank : 2 * ep_rank + 2])
                for slot in target.written:
                    target.mark_written(slot)
        total += part.finalize()(x, share, ids)

    if name != "dynamic":  # there the intermediate's one scale is of the rows that a rank has
        torch.testing.assert_close(total, whole(x, share, ids), rtol=1e-5, atol=1e-5)
    assert (total - whole(x, share, ids)).norm() < 0.05 * total.norm()


@pytest.mark.parametrize("shape", [(0, 256), (2, 0, 256), (1, 256), (2, 3, 256), (256,)])
def test_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    made = filled(CHANNEL)
    x = torch.randn(shape, device=DEVICE)
    share = torch.rand(*shape[:-1], 2, device=DEVICE)
    ids = torch.zeros(*shape[:-1], 2, dtype=torch.int32, device=DEVICE) + torch.tensor([1, 3], device=DEVICE)

    y = made(x, share, ids.int())

    assert y.shape == shape
    if x.numel():
        total = check(made, x.reshape(-1, 256), share.reshape(-1, 2), ids.reshape(-1, 2))
        assert torch.equal(y.reshape(-1, 256), total)


def test_one_expert_and_all_experts_of_a_stack() -> None:
    made = filled(CHANNEL)
    x = torch.randn(2, 3, 256, device=DEVICE)

    every = made.w13(x)

    assert every.shape == (4, 2, 3, 384)
    for expert in range(4):
        assert torch.equal(made.w13(x, expert), every[expert])
    inner = torch.einsum("tk,enk->etn", x.reshape(6, 256), made.w13.dequantize())
    assert (every.reshape(4, 6, 384) - inner).norm() < 0.05 * inner.norm()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_reload_is_seen_and_addresses_stay(name: str) -> None:
    made = filled(SCHEMES[name])
    x, (share, ids) = torch.randn(4, 256, device=DEVICE), routed(4, "any")
    before = made(x, share, ids)
    first = [stack._prepared for stack in (made.w13, made.w2)]

    for stack in (made.w13, made.w2):
        refill(stack, seed=5)
    after = made(x, share, ids)

    assert not torch.equal(after, before)
    assert torch.equal(after, filled(SCHEMES[name], seed=5)(x, share, ids))
    for old, stack in zip(first, (made.w13, made.w2), strict=True):
        for kind in ("weight", "weight_scale", "input_scale", "grid_rows"):
            mine, other = getattr(old, kind), getattr(stack._prepared, kind)
            assert (mine is None) == (other is None)
            assert mine is None or mine.data_ptr() == other.data_ptr()
        assert stack._prepared.weight.data_ptr() == stack.weight.data_ptr()
    assert torch.equal(made.finalize()(x, share, ids), after)


def test_nothing_is_copied_where_the_parameter_has_the_form() -> None:
    for name in ("channel", "block"):
        stack = filled(SCHEMES[name], inner=256).w13

        assert stack._prepared.weight_scale.data_ptr() == stack.weight_scale.data_ptr()
        assert stack._prepared.grid_rows is None


@pytest.mark.parametrize("name", [
    "ct-dsv3-fp8-block", "ct-gptoss-fp8-dynamic", "ct-mixtral-fp8-dynamic", "hf-qwen3moe-fp8-block32", "mo-gptoss-fp8",
    "mo-mixtral-fp8",
])  # fmt: skip
def test_experts_that_tools_wrote_run_as_emulated(name: str) -> None:
    """Scales in BF16, blocks of 32, biases, static inputs, the activation of gpt-oss: one by one, or all at once."""
    plan = fp8load.open(FOLDER / name).plan()
    modules = {layer.name.rpartition(".")[0] for layer in plan.layers.values() if layer.experts is not None}
    ours, theirs = plan.load(device=DEVICE, backend=None), plan.load(device=DEVICE, backend="emulated")

    for module in modules:
        made = ours[module]
        for stack in (made.w13, made.w2):
            stack._forced = "anywhere"
        x, (share, ids) = torch.randn(6, made.w13.shape[2], device=DEVICE), routed(6, "any", len(made.experts))
        y = made(x, share, ids)
        assert made.w13.backend.name == "anywhere"
        expected = theirs[module](x, share, ids)
        assert (y - expected).norm() < (2e-2 if GPU else 1e-3) * expected.norm()


@pytest.mark.parametrize("backend", ["torch_grouped", "deepgemm_grouped", "triton_grouped"])
def test_a_forced_backend_that_cannot_run_is_an_error(backend: str) -> None:
    with pytest.raises(BackendError) as caught:
        filled(WEIGHT_ONLY, backend=backend, device="cpu")

    assert caught.value.code == "BKD801"
    assert "weight-only" in caught.value.expected


@pytest.mark.parametrize("backend", [TorchGrouped(), DeepGemmGrouped()], ids=lambda backend: backend.name)
def test_what_a_product_of_others_does_not_take_goes_to_the_own_one(backend) -> None:
    """A bias, another dtype than BF16, parts that end within a block: the own product takes these."""
    block = isinstance(backend, DeepGemmGrouped)
    made = filled(BLOCK if block else CHANNEL, bias=DType.F32)
    x, (share, ids) = torch.randn(6, 256, device=DEVICE), routed(6, "any")
    for stack in (made.w13, made.w2):
        stack._choice, stack._prepared = Choice(backend, ()), None

    check(made, x, share, ids)


FORCED = [
    pytest.param("torch_grouped", "channel", id="torch, channel"), pytest.param("torch_grouped", "static", id="static"),
    pytest.param("torch_grouped", "tensor, per token", id="torch, tensor"),
    pytest.param("deepgemm_grouped", "block", id="deepgemm",
                 marks=pytest.mark.skipif(not DEEPGEMM, reason="needs deep_gemm")),
    pytest.param("triton_grouped", "channel", id="triton, channel"),
    pytest.param("triton_grouped", "block", id="triton, block"),
]  # fmt: skip
LARGE = {"hidden": 1024, "inner": 512, "num_experts": 16}


@pytest.mark.gpu
@needs_hopper
@pytest.mark.parametrize("num_tokens", [1, 5, 64, 700])
@pytest.mark.parametrize("kind", ["any", "one expert", "some without"])
@pytest.mark.parametrize(("backend", "name"), FORCED)
def test_on_a_hopper_a_token_is_the_sum_over_its_experts(backend: str, name: str, kind: str, num_tokens: int) -> None:
    made = filled(SCHEMES[name], backend=backend, **LARGE)
    x = torch.randn(num_tokens, 1024, device="cuda", dtype=torch.bfloat16)
    x[:, ::97] *= 8
    share, ids = routed(num_tokens, kind, 16, 4)

    y = check(made, x, share, ids)

    assert torch.equal(y, made(x, share, ids))


@pytest.mark.gpu
@needs_hopper
@pytest.mark.parametrize("num_tokens", [1, 300])
@pytest.mark.parametrize(("backend", "name"), FORCED)
def test_on_a_hopper_nothing_waits_for_the_device_and_a_graph_survives_a_reload(
    backend: str, name: str, num_tokens: int
) -> None:
    made = filled(SCHEMES[name], backend=backend, **LARGE)
    x = torch.randn(num_tokens, 1024, device="cuda", dtype=torch.bfloat16)
    again = filled(SCHEMES[name], backend=backend, seed=5, **LARGE)

    assert_a_graph_survives_a_reload(made, again, x, seed=5)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_grouped_backend_is_chosen_and_the_loop_where_it_is_asked_for() -> None:
    made = filled(CHANNEL, backend=None, hidden=1024, inner=512)
    assert made.w13.backend.name == ("torch_grouped" if HOPPER else "triton_grouped")
    assert isinstance(filled(CHANNEL, backend="reference").w13.backend, OneByOne)


def test_a_gradient_is_not_lost_without_a_word() -> None:
    made = filled(CHANNEL)
    share, ids = routed(6, "random")
    x = torch.randn(6, 256, device=DEVICE).bfloat16().requires_grad_()

    with pytest.raises(UsageError, match="pass no gradient on"):
        made(x, share, ids)
    with torch.no_grad():
        assert made(x, share, ids).shape == (6, 256)


def test_an_input_of_64_bits_is_computed_in_32() -> None:
    made = filled(CHANNEL)
    share, ids = routed(6, "random")
    x = torch.randn(6, 256, device=DEVICE, dtype=torch.float64)

    assert torch.equal(made(x, share, ids), made(x.float(), share, ids))
