"""How stacks of experts choose what runs them, and how a grouped backend of someone else's is used."""

from __future__ import annotations

import pytest
import torch

from fp8load.errors import BackendError, UsageError
from fp8load.runtime import grouped
from fp8load.runtime.activation import activated, parse_activation
from fp8load.runtime.backend import Device, No, Yes
from fp8load.runtime.choose import choose, choose_grouped
from fp8load.runtime.grouped import GroupedPrepared, OneByOne, grouped_providers
from fp8load.runtime.layers import FusedExperts
from fp8load.runtime.routing import combined, route
from runtime.cases import CHANNEL, WEIGHT_ONLY

CPU = Device(kind="cpu")
H200 = Device(kind="cuda", capability=(9, 0))


class Batched:
    """Every row times every expert's weight, in float32; notes what it was asked."""

    name = "batched"

    def __init__(self, alignment: int = 1) -> None:
        self.rows = alignment
        self.asked: list[tuple[tuple[int, ...], bool]] = []

    def supports(self, scheme, shape_ENK, device):
        return Yes() if scheme.input is None else No("is for weight-only schemes")

    def prepare(self, weights, previous=None):
        dense = torch.stack([weights.expert(at).dequantize() for at in range(weights.shape[0])])
        if previous is not None:
            dense = previous.weight.copy_(dense)
        return GroupedPrepared(weights=weights, weight=dense)

    def alignment(self, num_pairs, shape_ENK):
        return self.rows

    def route(self, ids_Tk, experts, alignment):
        return route(ids_Tk, experts, alignment)

    def apply(self, prepared, x, routing, bias=None, activation=None):
        self.asked.append((tuple(x.shape), activation is not None))
        rows = x[routing.token] if activation is None else activated(x, activation).to(x.dtype)
        return torch.einsum("pk,pnk->pn", rows.float(), prepared.weight[routing.expert]).to(x.dtype)

    def combine(self, y_PN, routing, weights_Tk):
        return combined(y_PN, routing, weights_Tk)


def announce(monkeypatch: pytest.MonkeyPatch, *backends: object) -> None:
    monkeypatch.setattr(grouped, "grouped_providers", lambda: (lambda device: backends,))


def filled(backend: str | None = None) -> FusedExperts:
    made = FusedExperts(4, 64, 32, scheme=WEIGHT_ONLY, name="experts", backend=backend)
    rng = torch.Generator().manual_seed(0)
    for param in made.parameters():
        for source in param.param_layout.sources:
            number, _, slot = source.slot.partition(".")
            param.weight_loader(param, torch.rand(source.shape, generator=rng).to(param.dtype), slot, int(number))
    return made


X, SHARE = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), torch.rand(5, 2)
IDS = torch.tensor([[0, 3], [3, 1], [0, 1], [3, 0], [1, 0]])


def test_on_a_cpu_the_reference_runs_and_says_who_refused() -> None:
    made = filled()

    assert made.w13.backend.name == "reference"
    assert isinstance(made.w13.backend, OneByOne)
    assert made.why[-1] == "reference: supports it, one expert after the other"
    assert made(X, SHARE, IDS).dtype == torch.float32


def test_a_backend_that_supports_the_stack_is_used_for_both_products(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filled("reference")(X, SHARE, IDS)
    backend = Batched()
    announce(monkeypatch, backend)
    made = filled()

    y = made(X, SHARE, IDS)

    assert made.why == ("batched: supports it",)
    assert backend.asked == [((5, 64), False), ((10, 64), True)]
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_stacks_that_are_run_by_different_backends_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filled("reference")(X, SHARE, IDS)
    announce(monkeypatch, Batched(16))
    for grouped_part in ("w13", "w2"):
        made = filled("reference")
        stack = made.w13 if grouped_part == "w13" else made.w2
        stack._forced = None

        torch.testing.assert_close(made(X, SHARE, IDS), expected, rtol=1e-5, atol=1e-5)
        assert {made.w13.backend.name, made.w2.backend.name} == {"batched", "reference"}


def test_a_reload_reaches_what_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, Batched())
    made = filled()
    before = made(X, SHARE, IDS)
    address = made.w13._prepared.weight.data_ptr()

    made.w13.weight.weight_loader(made.w13.weight, torch.zeros(32, 64).to(torch.float8_e4m3fn), "up", expert_id=3)

    after = made(X, SHARE, IDS)
    assert torch.equal(after[2], before[2])  # its experts are others
    assert not torch.equal(after[:2], before[:2])
    assert made.w13._prepared.weight.data_ptr() == address


def test_reference_forces_one_expert_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, Batched())

    choice = choose_grouped(WEIGHT_ONLY, (4, 64, 64), H200, forced="reference")

    assert choice.backend.name == "reference"
    assert choice.why == ("reference: forced, one expert after the other",)


def test_a_forced_backend_is_the_one_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, Batched())

    assert choose_grouped(WEIGHT_ONLY, (4, 64, 64), CPU, forced="batched").why == ("batched: forced",)
    assert choose_grouped(CHANNEL, (4, 64, 64), CPU, forced="emulated").backend.name == "emulated"
    with pytest.raises(BackendError, match="is for weight-only schemes") as caught:
        choose_grouped(CHANNEL, (4, 64, 64), CPU, forced="batched", layer="experts.w13")
    assert (caught.value.code, caught.value.problem.module) == ("BKD801", "experts.w13")
    with pytest.raises(BackendError, match="weight-only"):
        choose_grouped(WEIGHT_ONLY, (4, 64, 64), CPU, forced="torch_scaled_mm")
    with pytest.raises(UsageError) as unknown:
        choose_grouped(WEIGHT_ONLY, (4, 64, 64), CPU, forced="no_such")
    assert unknown.value.code == "BKD800"
    assert {"batched", "reference", "torch_scaled_mm"} <= set(unknown.value.expected.replace(",", " ").split())


def test_of_several_names_grouped_ones_come_first_and_layers_do_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, Batched())
    names = ("torch_scaled_mm", "emulated", "batched")

    one_by_one = choose_grouped(CHANNEL, (4, 64, 64), CPU, forced=names)

    assert choose_grouped(WEIGHT_ONLY, (4, 64, 64), CPU, forced=names).why == ("batched: forced",)
    assert one_by_one.why == (
        "batched: is for weight-only schemes",
        "torch_scaled_mm: forced, one expert after the other",
    )
    assert choose(WEIGHT_ONLY, (64, 64), CPU, forced=names).backend.name == "emulated"
    with pytest.raises(BackendError, match="batched: runs stacks of experts, and this is one layer"):
        choose(WEIGHT_ONLY, (64, 64), CPU, forced="batched")


def test_this_packages_backends_are_announced() -> None:
    from fp8load_kernels.select import grouped_provider

    assert grouped_provider in grouped_providers()
    assert [backend.name for backend in grouped_provider(H200)] == [
        "torch_grouped", "deepgemm_grouped", "triton_grouped", "weight_only_grouped",
    ]  # fmt: skip
    assert grouped_provider(Device(kind="cuda", capability=(8, 0)))[0].name == "weight_only_grouped"


@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64), (2, 3, 64), (64,)])
def test_any_number_of_leading_axes_and_no_tokens(shape: tuple[int, ...]) -> None:
    made = filled()
    ids = torch.zeros(*shape[:-1], 2, dtype=torch.int64)

    y = made(torch.ones(shape), torch.ones(*shape[:-1], 2), ids)

    assert (y.shape, y.dtype) == (shape, torch.float32)


def test_a_routing_may_be_flat_and_must_fit() -> None:
    made = filled()
    x = X[:4].reshape(2, 2, 64)

    assert torch.equal(made(x, SHARE[:4], IDS[:4]).reshape(4, 64), made(X[:4], SHARE[:4], IDS[:4]))
    with pytest.raises(UsageError, match="USE801"):
        made(X, SHARE[:4], IDS[:4])
    with pytest.raises(UsageError, match="USE801"):
        made(X, SHARE[:, :1], IDS)


def test_an_intermediate_has_the_dtype_that_the_first_product_gave() -> None:
    """`emulated` rounds to BF16 as engines do, `reference` computes in float32 all through."""
    x = X.bfloat16()
    exact, rounded = (filled(name)(x, SHARE, IDS) for name in ("reference", "emulated"))

    torch.testing.assert_close(exact, filled("reference")(x.float(), SHARE, IDS))
    assert 0 < (exact - rounded).norm() < 2e-2 * exact.norm()


@pytest.mark.parametrize("text", ["tanh", "", "silu-ish:1.0"])
def test_an_unknown_activation_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="USE803"):
        parse_activation(text, "experts")
