"""Experts through the weight-only grouped backend: selection, the sum over experts in float64, reloads, graphs.

Without a GPU its product is interpreted, behind a backend that says yes on the CPU.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fp8load
from fp8load.dtypes import DType
from fp8load.errors import BackendError
from fp8load.fusion import FusionPlan
from fp8load.runtime import grouped
from fp8load.runtime.activation import activated, parse_activation
from fp8load.runtime.backend import Device, No, Yes
from fp8load.runtime.choices import explain_kernel, kernels_of
from fp8load.runtime.choose import choose_grouped
from fp8load.runtime.devices import parse_device
from fp8load.runtime.experts import ScaledLinearStack
from fp8load.runtime.grouped import OneByOne
from fp8load.runtime.layers import FusedExperts
from fp8load.runtime.routing import route
from fp8load.scheme import LinearScheme, PerGroup, QuantSpec, Transform
from fp8load_kernels.bench.accuracy import TOLERANCE, trial_stack
from fp8load_kernels.bench.exact import exact_weight
from fp8load_kernels.bench.schemes import COMMON
from fp8load_kernels.grouped.weight_only_grouped import WeightOnlyGrouped
from fp8load_kernels.select import grouped_provider
from kernels.coded import SCHEMES, scheme
from kernels.stacks import DEVICE, assert_a_graph_survives_a_reload, assert_rows_close, filled, refill, routed
from oracle.catalog import FOLDER
from runtime.cases import BLOCK, CHANNEL, STATIC

pytest.importorskip("triton", reason="needs triton")

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")
H200, A100, TURING = (Device(kind="cuda", capability=(major, minor)) for major, minor in ((9, 0), (8, 0), (7, 5)))
QUANTIZING = {
    "fp8 by fp8": CHANNEL,
    "static": STATIC,
    "block": BLOCK,
    "MXFP4": COMMON["MXFP4"],
    "NVFP4": COMMON["NVFP4"],
}
KINDS = {**{name: scheme(name) for name in SCHEMES}, **QUANTIZING}
"""Schemes that quantize their input are run without."""


class Anywhere(WeightOnlyGrouped):
    """On the CPU too, where Triton is interpreted."""

    name = "anywhere"

    def supports(self, scheme, shape_ENK, device):
        return super().supports(scheme, shape_ENK, H200)


@pytest.fixture(autouse=True)
def _announced(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = (lambda device: (*grouped_provider(device), Anywhere()),)
    monkeypatch.setattr(grouped, "grouped_providers", lambda: providers)


def of_each(stack: ScaledLinearStack, x: torch.Tensor) -> torch.Tensor:
    """All rows of x through every expert, float64 [E, M, N]."""
    weights = stack._weights()
    each = [weights.expert(at) for at in range(weights.shape[0])]
    w_ENK = torch.stack([torch.cat([exact_weight(one, i) for i in range(len(one.parts))]) for one in each])
    y_EMN = torch.einsum("mk,enk->emn", x.double(), w_ENK)
    return y_EMN if stack.bias is None else y_EMN + stack.bias.detach().double()[:, None]


def check(made: FusedExperts, x: torch.Tensor, share: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The rows of w13, and the sum over experts of what w2 makes of just these rows: exact products in float64."""
    alignment = max(stack.backend.alignment(ids.numel(), stack.shape) for stack in (made.w13, made.w2))
    routing = route(ids, made.experts, alignment)
    first, total = made.w13.rows(x, routing), made(x, share, ids)
    mine = (routing.expert >= 0).nonzero()[:, 0]
    expert = routing.expert[mine]
    limit = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 1.2e-2}[x.dtype]
    assert first.dtype == x.dtype
    assert_rows_close(first[mine], of_each(made.w13, x)[expert, routing.token[mine]], limit)
    h = activated(first[mine], parse_activation(made.activation)).to(x.dtype)
    y = torch.zeros(routing.num_rows + 1, made.w2.shape[1], dtype=torch.float64, device=x.device)
    y[mine] = of_each(made.w2, h)[expert, torch.arange(len(mine), device=x.device)]
    assert total.dtype == torch.float32
    assert total.abs().amax() > 0
    assert_rows_close(total, (y[routing.position] * share[..., None]).sum(1), limit)
    return total


def inputs(num_tokens: int, num_cols: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    x = torch.randn(num_tokens, num_cols, generator=torch.Generator().manual_seed(num_tokens))
    x[:, ::31] *= 8
    return x.to(DEVICE).to(dtype)


@pytest.mark.parametrize("name", KINDS)
def test_a_token_is_the_sum_over_its_experts(name: str) -> None:
    made = filled(KINDS[name])

    assert made.w13.backend.name == "anywhere"
    check(made, inputs(7, 256), *routed(7, "any"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["fp8-block", "int4-group-32", "mxfp8", "fp8-channel"])
def test_inputs_of_any_dtype(name: str, dtype: torch.dtype) -> None:
    check(filled(KINDS[name]), inputs(5, 256, dtype), *routed(5, "any"))


@pytest.mark.parametrize("kind", ["one expert", "some without"])
@pytest.mark.parametrize("name", ["mxfp4", "fp8-tensor", "fp8-block"])
def test_any_routing(name: str, kind: str) -> None:
    check(filled(KINDS[name]), inputs(20, 256), *routed(20, kind))


@pytest.mark.parametrize(("hidden", "inner"), [(100, 50), (586, 90)])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "fp8-block", "fp8-odd-block", "int8-channel"])
def test_odd_sizes_and_a_bias_with_the_activation_of_gpt_oss(name: str, hidden: int, inner: int) -> None:
    """Parts that end within a block, too."""
    made = filled(KINDS[name], hidden=hidden, inner=inner, bias=DType.BF16, activation="clamped-swiglu:7.0")

    check(made, inputs(6, hidden), *routed(6, "any"))


@pytest.mark.parametrize("name", ["int8-channel", "fp8-channel"])
def test_an_odd_number_of_columns(name: str) -> None:
    check(filled(KINDS[name], hidden=131, inner=33), inputs(6, 131), *routed(6, "any"))


def test_experts_without_a_gate() -> None:
    made = filled(KINDS["mxfp4"], gated=False, activation="relu2")

    check(made, inputs(6, 256), *routed(6, "any"))


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4-divisor"])
def test_what_expert_parallel_ranks_compute_adds_up(name: str) -> None:
    whole = filled(KINDS[name])
    x, (share, ids) = inputs(9, 256), routed(9, "any")
    total = torch.zeros(9, 256, device=DEVICE)
    for ep_rank in range(2):
        part = FusedExperts(
            4, 256, 192, scheme=KINDS[name], backend="anywhere", device=DEVICE, ep_rank=ep_rank, ep_size=2
        )
        for mine, theirs in ((part.w13, whole.w13), (part.w2, whole.w2)):
            for target, source in zip(mine.parameters(), theirs.parameters(), strict=True):
                target.detach().copy_(source.detach()[2 * ep_rank : 2 * ep_rank + 2])
                for slot in target.written:
                    target.mark_written(slot)
        total += part.finalize()(x, share, ids)

    torch.testing.assert_close(total, whole(x, share, ids), rtol=1e-5, atol=1e-5)


def test_no_tokens() -> None:
    share, ids = torch.rand(0, 2, device=DEVICE), torch.zeros(0, 2, dtype=torch.int64, device=DEVICE)

    assert filled(KINDS["mxfp4"])(inputs(0, 256), share, ids).shape == (0, 256)


@pytest.mark.parametrize("name", KINDS)
def test_a_reload_is_seen_and_addresses_stay(name: str) -> None:
    made = filled(KINDS[name], hidden=160, inner=90)
    x, (share, ids) = inputs(4, 160), routed(4, "any")
    before = made(x, share, ids)
    first = [stack._prepared for stack in (made.w13, made.w2)]

    for stack in (made.w13, made.w2):
        refill(stack, seed=5)
    after = made(x, share, ids)

    assert not torch.equal(after, before)
    assert torch.equal(after, filled(KINDS[name], hidden=160, inner=90, seed=5)(x, share, ids))
    for old, stack in zip(first, (made.w13, made.w2), strict=True):
        for kind in ("weight", "weight_scale", "row_factor", "grid_rows"):
            mine, other = getattr(old, kind), getattr(stack._prepared, kind)
            assert (mine is None) == (other is None)
            assert mine is None or mine.data_ptr() == other.data_ptr()
        assert stack._prepared.weight.data_ptr() == stack.weight.data_ptr()
    assert torch.equal(made.finalize()(x, share, ids), after)


@pytest.mark.parametrize("name", [
    "hf-gptoss-mxfp4", "ct-qwen3moe-nvfp4", "mo-qwen3moe-nvfp4", "mo-gptoss-fp8",
    "hf-qwen3moe-fp8-block32", "ct-dsv3-fp8-block",
])  # fmt: skip
def test_experts_that_tools_wrote_run_as_the_reference_does(name: str) -> None:
    """Gate and up in turn, biases, the activation of gpt-oss, scales of two levels: all at once as one by one."""
    plan = fp8load.open(FOLDER / name).plan()
    modules = {layer.name.rpartition(".")[0] for layer in plan.layers.values() if layer.experts is not None}
    ours, theirs = plan.load(device=DEVICE, backend=None), plan.load(device=DEVICE, backend="reference")

    assert modules
    for module in modules:
        made = ours[module]
        for stack in (made.w13, made.w2):
            stack._forced = "anywhere"
        x, (share, ids) = inputs(6, made.w13.shape[2]), routed(6, "any", len(made.experts))
        y, expected = made(x, share, ids), theirs[module](x.float(), share, ids)
        assert made.w13.backend.name == "anywhere"
        assert (y - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4", "weight-only FP8"])
def test_doctor_finds_its_products_right(name: str) -> None:
    assert trial_stack(Anywhere(), COMMON[name], torch.device(DEVICE), tokens=(17,)) < TOLERANCE


@pytest.mark.parametrize(("asked", "shape", "device", "reason"), [
    (scheme("mxfp4"), (8, 64, 64), Device(kind="cpu"), "8.0"), (scheme("mxfp4"), (8, 64, 64), TURING, "8.0"),
    (scheme("mxfp4"), (0, 64, 64), H200, "at least 1"), (scheme("mxfp4"), (8, 64, 63), H200, "even K"),
    (scheme("fp8-channel", transforms=(Transform.PRE_QUANT_SCALE,)), (8, 64, 64), H200, "pre_quant_scale"),
    (LinearScheme(weight=QuantSpec(dtype=DType.F6_E3M2, granularity=PerGroup(32), scale_dtype=DType.U8)), (8, 64, 64),
     H200, "decodes"),
])  # fmt: skip
def test_it_says_what_it_does_not_take(asked: LinearScheme, shape, device: Device, reason: str) -> None:
    verdict = WeightOnlyGrouped().supports(asked, shape, device)

    assert isinstance(verdict, No)
    assert reason in verdict.reason


@pytest.mark.parametrize(("asked", "device", "first"), [
    (CHANNEL, A100, True), (BLOCK, A100, True), (scheme("mxfp4"), A100, True), (scheme("mxfp4"), H200, False),
])  # fmt: skip
def test_it_is_asked_first_where_there_are_no_fp8_units_and_behind_those_that_use_them(
    asked: LinearScheme, device: Device, *, first: bool
) -> None:
    choice = choose_grouped(asked, (8, 256, 256), device)

    note = "; the input stays in 16 bits, unquantized" if asked.input else ""
    assert choice.why[-1] == f"weight_only_grouped: supports it{note}"
    assert [name for name, _ in choice.refused] == (
        [] if first else ["torch_grouped", "deepgemm_grouped", "triton_grouped"]
    )
    assert choose_grouped(CHANNEL, (8, 256, 256), H200).backend.name == "torch_grouped"


def test_a_plan_and_a_tensor_name_it() -> None:
    plan: FusionPlan = fp8load.open(FOLDER / "hf-gptoss-mxfp4").plan()
    device = parse_device("sm80")
    tensor = next(name for name in (copy.source for copy in plan.copies) if "gate_up_proj_blocks" in name)

    assert {one.backend for one in kernels_of(plan, device).chosen if "experts" in one.layers[0]} == {
        "weight_only_grouped"
    }
    assert explain_kernel(plan, tensor, device)[0].startswith("  kernel   weight_only_grouped on sm80")


def test_it_is_forced_or_an_error() -> None:
    assert (
        choose_grouped(CHANNEL, (4, 64, 64), H200, forced="weight_only_grouped")
        .why[0]
        .startswith("weight_only_grouped: forced")
    )
    with pytest.raises(BackendError, match="this is cpu") as caught:
        filled(KINDS["mxfp4"], backend="weight_only_grouped", device="cpu")
    assert caught.value.code == "BKD801"


LARGE = {"hidden": 1024, "inner": 512, "num_experts": 16, "backend": "weight_only_grouped"}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("num_tokens", [1, 200, 700])
@pytest.mark.parametrize("kind", ["any", "one expert", "some without"])
@pytest.mark.parametrize("name", KINDS)
def test_on_a_gpu_a_token_is_the_sum_over_its_experts(name: str, kind: str, num_tokens: int) -> None:
    made = filled(KINDS[name], **LARGE)
    x, (share, ids) = inputs(num_tokens, 1024), routed(num_tokens, kind, 16, 4)

    y = check(made, x, share, ids)

    assert torch.equal(y, made(x, share, ids))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("num_tokens", [1, 300])
@pytest.mark.parametrize("name", KINDS)
def test_on_a_gpu_nothing_waits_for_the_device_and_a_graph_survives_a_reload(name: str, num_tokens: int) -> None:
    options = {**LARGE, "bias": DType.BF16, "activation": "clamped-swiglu:7.0"}
    made = filled(KINDS[name], **options)
    again = filled(KINDS[name], seed=5, **options)

    assert_a_graph_survives_a_reload(made, again, inputs(num_tokens, 1024), seed=5)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_it_is_chosen_for_weight_only_experts() -> None:
    made = filled(KINDS["mxfp4"], backend=None, hidden=1024, inner=512)

    assert isinstance(WeightOnlyGrouped().supports(made.scheme, made.w13.shape, H200), Yes)
    assert made.w13.backend.name == "weight_only_grouped"
    assert isinstance(filled(KINDS["mxfp4"], backend="weight_only").w13.backend, OneByOne)
    assert replace(made.scheme) == KINDS["mxfp4"]
