"""Which backend runs a plan on a device that need not be here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fp8load
from fp8load.errors import BackendError, UsageError
from fp8load.kernel_report import MemoryReport
from fp8load.runtime.backend import Device
from fp8load.runtime.choices import choose_for, explain_kernel, kernels_of
from fp8load.runtime.devices import gpu_of, parse_device, torch_device

BLOCKS = "fixtures/skeletons/llama-fp8-block.skel"
EXPERTS = "fixtures/checkpoints/mo-qwen3moe-auto"


def plan(source: str = BLOCKS, **rank: int) -> fp8load.FusionPlan:
    return fp8load.open(source).plan(**rank)


@pytest.mark.parametrize(("text", "device"), [
    ("sm90", Device(kind="cuda", capability=(9, 0), name="sm90")),
    ("SM_100a", Device(kind="cuda", capability=(10, 0), name="sm100")),
    ("sm89", Device(kind="cuda", capability=(8, 9), name="sm89")),
    ("cpu", Device(kind="cpu")),
])  # fmt: skip
def test_a_device_is_parsed_from_its_name(text: str, device: Device) -> None:
    assert parse_device(text) == device


def test_auto_is_the_gpu_of_this_machine_or_its_cpu() -> None:
    assert parse_device("auto").kind == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("text", ["gfx942", "sm91", "tpu", ""])
def test_another_name_is_an_error_that_lists_what_there_is(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_device(text)

    assert caught.value.code == "USE021"
    assert "sm90" in caught.value.expected


def test_cuda_is_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    with pytest.raises(BackendError) as caught:
        parse_device("cuda")

    assert caught.value.code == "BKD802"


def test_every_gpu_of_nvidia_has_sizes_of_memory() -> None:
    for capability in ((8, 0), (8, 9), (9, 0), (10, 0)):
        gpu = gpu_of(Device(kind="cuda", capability=capability))
        assert gpu is not None
        assert gpu.memory_gb == tuple(sorted(gpu.memory_gb)) != ()
    assert gpu_of(Device(kind="cuda", capability=(7, 7))) is None


@pytest.mark.parametrize(("device", "installed", "backend"), [
    ("sm80", True, "weight_only"), ("sm90", False, "torch_block"), ("sm90", True, "deepgemm"),
    ("cpu", True, "emulated"),
])  # fmt: skip
def test_blocks_run_on_what_the_device_has(device, installed, backend, monkeypatch) -> None:
    monkeypatch.setattr("fp8load_kernels.backends.deepgemm.find_spec", lambda name: object() if installed else None)
    for module in ("blocks", "backends.triton_block", "backends.weight_only"):
        monkeypatch.setattr(f"fp8load_kernels.{module}.has_triton", lambda: True)

    found = kernels_of(plan(), parse_device(device))

    assert {one.backend for one in found.chosen} == {backend}
    assert sum(one.count for one in found.chosen) == len(plan().layers)


def test_every_reason_stands_there_once_with_how_many_layers_it_is_of() -> None:
    found = kernels_of(plan(), parse_device("cpu"))

    assert len({(one.backend, one.reason) for one in found.refused}) == len(found.refused)
    assert {one.count for one in found.refused} == {16}
    assert [one.backend for one in found.refused] == [
        "torch_scaled_mm", "deepgemm", "torch_block", "triton_block", "torch_mx", "weight_only",
    ]  # fmt: skip


def test_layers_that_are_alike_are_asked_once(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "fp8load.runtime.choices.choose_for", lambda layer, *rest: asked.append(layer.shape) or choose_for(layer, *rest)
    )
    kernels_of(plan(), parse_device("cpu"))

    assert len(asked) == len(set(asked)) < len(plan().layers)


def test_experts_are_asked_about_as_they_are_loaded() -> None:
    found = kernels_of(plan(EXPERTS, ep_size=2), parse_device("sm90"))
    stacks = {one.shape: one.backend for one in found.chosen if len(one.shape) == 3}

    assert stacks == {(2, 192, 128): "weight_only_grouped", (2, 128, 96): "weight_only_grouped"}
    layer = next(layer for layer in plan(EXPERTS).layers.values() if layer.experts is not None)
    assert choose_for(layer, parse_device("cpu"), "emulated").backend.name == "emulated"


MIXTURE = "fixtures/checkpoints/hf-qwen3moe-fp8-block32"


@pytest.mark.parametrize(("backend", "layers", "stacks"), [
    ("triton_block", "triton_block", "triton_block"),
    ("triton_grouped", "triton_block", "triton_grouped"),
    (("triton_grouped", "emulated"), "emulated", "triton_grouped"),
    (["emulated", "triton_block"], "emulated", "emulated"),
    (("reference", "triton_grouped"), "reference", "triton_grouped"),
])  # fmt: skip
def test_layers_and_stacks_of_experts_take_the_names_of_their_kind(backend, layers: str, stacks: str) -> None:
    found = kernels_of(plan(MIXTURE), parse_device("sm90"), backend)

    assert {one.backend for one in found.chosen if len(one.shape) == 2} == {layers}
    assert {one.backend for one in found.chosen if len(one.shape) == 3} == {stacks}
    assert found.forced == (backend if isinstance(backend, str) else ", ".join(backend))


def test_of_several_names_each_layer_takes_the_first_that_runs_it() -> None:
    found = kernels_of(plan(EXPERTS), parse_device("sm90"), ("torch_scaled_mm", "weight_only"))

    assert {one.backend for one in found.chosen} == {"torch_scaled_mm", "weight_only"}
    assert {(one.backend, one.reason[:13]) for one in found.refused} == {("torch_scaled_mm", "takes weights")}


@pytest.mark.parametrize(("source", "backend", "reason"), [
    (BLOCKS, "triton_grouped", "triton_grouped: runs stacks of experts, and there are none"),
    (BLOCKS, ("triton_block", "triton_grouped"), "triton_grouped: runs stacks of experts, and there are none"),
    (MIXTURE, ("triton_block", "deepgemm"), "deepgemm: takes blocks of 128 x 128, not block 32 x 32"),
    (MIXTURE, ("triton_block", "torch_grouped"), "torch_grouped: takes weights scaled per tensor or per row"),
])  # fmt: skip
def test_a_name_that_no_layer_can_take_is_an_error(source: str, backend, reason: str) -> None:
    with pytest.raises(BackendError) as refused:
        kernels_of(plan(source), parse_device("sm90"), backend)

    assert refused.value.code == "BKD801"
    assert refused.value.expected.startswith(reason)


def test_an_unknown_name_is_an_error_that_lists_both_kinds() -> None:
    with pytest.raises(UsageError) as unknown:
        kernels_of(plan(MIXTURE), parse_device("sm90"), ("triton_block", "triton_gruped"))

    assert unknown.value.problem.got == "triton_gruped"
    assert {"triton_block", "triton_grouped"} <= set(unknown.value.expected.replace(",", " ").split())
    assert unknown.value.problem.hint == (
        "for stacks of experts only: torch_grouped, deepgemm_grouped, triton_grouped, weight_only_grouped"
    )


def test_loading_takes_several_names_and_refuses_before_it_reads() -> None:
    read: list[int] = []
    model = plan(EXPERTS).load(backend=("emulated", "reference"))

    assert {layer.why[-1].partition(":")[0] for layer in model.values()} == {"emulated"}
    with pytest.raises(BackendError, match="triton_grouped was requested and cannot run here"):
        plan(EXPERTS).load(backend=("emulated", "triton_grouped"), progress=lambda done, total: read.append(done))
    assert read == []


def test_a_forced_backend_refuses_or_does_not_exist() -> None:
    with pytest.raises(BackendError) as refused:
        kernels_of(plan(), parse_device("sm80"), "triton_block")
    with pytest.raises(UsageError) as unknown:
        kernels_of(plan(), parse_device("sm80"), "triton_blok")

    assert (refused.value.code, unknown.value.code) == ("BKD801", "BKD800")
    assert "needs compute capability 8.9, and this is sm80, 8.0" in refused.value.expected


def test_an_unknown_backend_is_an_error_where_nothing_is_quantized(tmp_path) -> None:
    skeleton = tmp_path / "plain.skel"
    skeleton.write_text("blocks.{0..1}.up.weight  BF16  [64, 32]\n")

    assert kernels_of(plan(skeleton), parse_device("cpu")).chosen == ()
    with pytest.raises(UsageError) as unknown:
        kernels_of(plan(skeleton), parse_device("cpu"), "cutlass")
    assert unknown.value.code == "BKD800"


def test_the_choice_is_that_of_loading() -> None:
    source = "fixtures/checkpoints/mo-qwen3moe-auto"
    model = fp8load.load(source)
    found = kernels_of(model.plan, parse_device("cpu"))
    run = {name: layer.why[-1].partition(":")[0] for name, layer in model.items()}

    assert len(run) == 7
    for one in found.chosen:
        for pattern in one.layers:
            name = pattern.replace("{0..1}", "0").removesuffix(".w13").removesuffix(".w2")
            assert run[name] == one.backend


def test_memory_counts_the_parameters_of_the_rank() -> None:
    one = plan()
    nbytes = 80 * 10**9
    large = replace(one)
    large.__dict__["nbytes"] = nbytes + 1  # a cached property: no fixture is that large
    exact = replace(one)
    exact.__dict__["nbytes"] = nbytes

    assert kernels_of(large, parse_device("sm90")).memory == (
        MemoryReport(gb=80, fits=False), MemoryReport(gb=141, fits=True),
    )  # fmt: skip
    assert kernels_of(exact, parse_device("sm90")).memory[0].fits
    assert kernels_of(one, parse_device("cpu")).memory == ()


def test_a_tensor_is_followed_to_its_kernel() -> None:
    cpu = parse_device("cpu")
    lines = explain_kernel(plan(), "model.layers.3.self_attn.k_proj.weight", cpu)

    assert lines[0] == "  kernel   emulated on cpu, N 2,048, K 1,024"
    assert "  refused  triton_block: runs on CUDA, not on cpu" in lines
    assert explain_kernel(plan(), "model.norm.weight", cpu) == []


def test_a_stacked_tensor_is_followed_to_the_kernel_of_its_experts() -> None:
    stacked = plan("fixtures/checkpoints/mo-gptoss-fp8")
    lines = explain_kernel(stacked, "model.layers.1.mlp.experts.gate_up_proj", parse_device("sm90"))

    assert lines[0].startswith("  kernel   torch_grouped on sm90, N ")
    assert lines[0].endswith("for each of 4 experts")


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device takes no other."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    assert torch_device("cuda") == torch.device("cuda:1")
    assert torch_device("cuda:0") == torch.device("cuda:0")
