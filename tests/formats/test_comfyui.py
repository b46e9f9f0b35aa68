"""ComfyUI's files: every form bit for bit against numpy, nothing guessed, and each lost tensor named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fp8load
from fp8load.boxes import Box
from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType
from fp8load.errors import Fp8LoadError
from fp8load.index.embedded import MARKER_CAP
from fp8load.index.index import TensorMeta
from fp8load.index.skeleton import parse_skeleton, write_skeleton
from fp8load.plan.plan import Copy
from fp8load.plan.prove import prove
from fp8load.runtime.layers import ColumnParallelLinear
from fp8load.runtime.segments import CHUNK_NBYTES, Staged, segments
from fp8load.scheme import NibbleOrder, Repack, ScaleLayout
from fp8load.source.memory import MemorySource
from fp8load.swizzle import padded_shape, row_major
from oracle import comfyui
from oracle.comfyui import PREFIX, Layer, f32, fp8, marker, metadata_of, mxfp8, nvfp4, with_bias
from oracle.dequantize import Stored

ODD = (587, 3420)
"""Neither side is a multiple of 16 or 128."""


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def opened(tensors: dict[str, Stored], metadata: dict[str, str] | None = None, **files: bytes) -> Checkpoint:
    """A checkpoint of one file, and of JSON files beside it."""
    beside = {f"{name}.json": content for name, content in files.items()}
    return fp8load.open(MemorySource({"flux.safetensors": comfyui.file_of(tensors, metadata), **beside}))


def same_bits(got: torch.Tensor, expected: np.ndarray) -> None:
    array = got.contiguous().numpy()
    assert array.shape == expected.shape
    assert np.array_equal(array.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


def is_exact(checkpoint: Checkpoint, expected: dict[str, np.ndarray]) -> None:
    """Dequantized, as plain tensors and loaded, each weight is the expected one."""
    assert [problem for problem in checkpoint.problems if problem.refuses] == []
    assert checkpoint.verify("weights").ok
    plain, model = dict(checkpoint.plain_tensors()), checkpoint.plan().load()
    for module, weight in expected.items():
        same_bits(checkpoint.dequantize(module), weight)
        same_bits(plain[f"{module}.weight"], weight)
        same_bits(model[module].dequantize(), weight)


FORMS = {
    "float8_e4m3fn": fp8(generator(1), ODD),
    "float8_e5m2": fp8(generator(2), ODD, e5m2=True),
    "nvfp4": nvfp4(generator(3), ODD),
    "nvfp4 with scales called U8": nvfp4(generator(4), (48, 64), scale_dtype="U8"),
    "mxfp8": mxfp8(generator(5), ODD),
    "mxfp8 with scales called U8": mxfp8(generator(6), (48, 64), scale_dtype="U8"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("where", ["metadata", "metadata, as a string", "markers", "both"])
def test_each_format_is_read_bit_for_bit_wherever_it_is_announced(form: str, biased: bool, where: str) -> None:
    layer, said = FORMS[form], {"format": form.partition(" ")[0]}
    if biased:
        layer = with_bias(layer, 587 if layer.weight.shape[0] > 580 else layer.weight.shape[0])
    module = f"{PREFIX}blocks.0.mlp"
    tensors = {**layer.named(module), f"{PREFIX}norm.weight": Stored("BF16", (4,), bytes(8))}
    if where in ("markers", "both"):
        tensors[f"{module}.comfy_quant"] = marker(said)
    listed = said["format"] if where == "metadata, as a string" else said
    metadata = metadata_of({module: listed}) if where != "markers" else None

    is_exact(opened(tensors, metadata), {module: layer.weight})


def test_a_file_on_disk_is_read_like_one_in_memory(tmp_path: Path) -> None:
    layers = {"a": nvfp4(generator(), ODD), "b": mxfp8(generator(), (300, 96)), "c": fp8(generator(), (20, 30))}
    said = {"a": {"format": "nvfp4"}, "b": "mxfp8", "c": {"format": "float8_e4m3fn"}}
    tensors = {name: tensor for module, layer in layers.items() for name, tensor in layer.named(module).items()}
    path = tmp_path / "wan.safetensors"
    path.write_bytes(comfyui.file_of(tensors, metadata_of(said)))

    with fp8load.open(path) as checkpoint:
        is_exact(checkpoint, {module: layer.weight for module, layer in layers.items()})


@pytest.mark.parametrize("marker_dtype", ["F8_E4M3", "F8_E5M2", "F32"])
@pytest.mark.parametrize("scale_shape", [(), (1,)])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_legacy_scaled_fp8_is_read_bit_for_bit(marker_dtype: str, scale_shape: tuple[int, ...], prefix: str) -> None:
    layer = fp8(generator(), ODD, e5m2=marker_dtype == "F8_E5M2", scale="scale_weight", scale_shape=scale_shape)
    tensors = {f"{prefix}scaled_fp8": Stored(marker_dtype, (0,), b""), **layer.named(f"{prefix}blocks.0.mlp"),
               f"{prefix}blocks.0.norm.weight": Stored("BF16", (2, 2), bytes(8))}  # fmt: skip

    is_exact(opened(tensors), {f"{prefix}blocks.0.mlp": layer.weight})


def test_legacy_inputs_are_quantized_where_a_scale_is_stored_and_never_with_a_marker_of_two_elements() -> None:
    layer = fp8(generator(), (32, 32), scale="scale_weight")
    tensors = {**layer.named("a"), "a.scale_input": f32(0.5, shape=(1,)), **layer.named("b")}
    one, two = Stored("F8_E4M3", (0,), b""), Stored("F8_E4M3", (2,), bytes(2))

    quantized, kept = opened({"scaled_fp8": one, **tensors}), opened({"scaled_fp8": two, **tensors})

    assert [quantized.lowered.modules[name].scheme.input_static for name in "ab"] == [True, False]
    assert [kept.lowered.modules[name].scheme.input for name in "ab"] == [None, None]
    assert quantized.plan().load()["a"].input_scale.item() == 0.5
    assert "a.scale_input" in kept.lowered.unused


def test_full_precision_matrix_mult_keeps_the_input_as_it_is() -> None:
    layer, input_scale = fp8(generator(), (32, 32)), f32(0.5)
    said = {"a": {"format": "float8_e4m3fn"}, "b": {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}
    tensors = {**layer.named("a"), "a.input_scale": input_scale, **layer.named("b"), "b.input_scale": input_scale}

    modules = opened(tensors, metadata_of(said)).lowered.modules

    assert [modules[name].scheme.input is None for name in "ab"] == [False, True]


def test_the_input_scale_of_an_nvfp4_layer_is_that_of_its_block_scales() -> None:
    tensors = {**nvfp4(generator(), (32, 32)).named("a"), "a.input_scale": f32(0.5), "a.comfy_quant": marker("nvfp4"),
               **fp8(generator(), (32, 32)).named("b"), "b.input_scale": f32(0.25),
               "b.comfy_quant": marker("float8_e4m3fn")}  # fmt: skip

    model = opened(tensors).plan().load()

    assert (model["a"].input_global_scale.item(), model["a"].input_scale) == (0.5, None)
    assert (model["b"].input_global_scale, model["b"].input_scale.item()) == (None, 0.25)


def test_only_the_marker_tells_comfyuis_nvfp4_from_modelopts() -> None:
    layer = nvfp4(generator(), (256, 128))
    assert layer.tensors["weight_scale"].shape == (256, 8)
    config = b'{"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}}'

    plain = opened(layer.named("a"), config=config)
    marked = opened({**layer.named("a"), "a.comfy_quant": marker({"format": "nvfp4"})})

    storages = [checkpoint.lowered.modules["a"].scheme.storage for checkpoint in (plain, marked)]
    assert [storage.nibble_order for storage in storages] == [NibbleOrder.LOW_FIRST, NibbleOrder.HIGH_FIRST]
    assert [storage.scale_layout for storage in storages] == [ScaleLayout.ROW_MAJOR, ScaleLayout.SWIZZLED_128X4]
    assert plain.lowered.repacks == {}
    assert not torch.equal(plain.dequantize("a"), marked.dequantize("a"))
    same_bits(marked.dequantize("a"), layer.weight)


def test_a_configuration_beside_the_file_that_says_otherwise_is_reported_with_the_one_that_is_used() -> None:
    layer = nvfp4(generator(), (256, 128))
    config = b'{"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}}'
    checkpoint = opened({**layer.named("a"), "a.comfy_quant": marker("nvfp4")}, config=config)

    found = [finding for finding in checkpoint.verify().findings if finding.code == "F8L103"]

    assert checkpoint.format.name == "comfyui"
    assert [finding.severity for finding in found] == ["error"]
    assert "high-first nibbles" in found[0].expected
    assert "tensors *.comfy_quant is used: what the weights' own file says" in found[0].hint
    same_bits(checkpoint.dequantize("a"), layer.weight)


@pytest.mark.parametrize(("listed", "stored", "severity"), [
    ("blocks.0.mlp", f"{PREFIX}blocks.0.mlp", "info"),  # loaders strip the tensors' prefix
    (f"{PREFIX}a.b", "a.b", "warning"),  # ComfyUI finds no such layer, and this reader does
])  # fmt: skip
def test_the_metadata_may_have_another_prefix_than_the_tensors(listed: str, stored: str, severity: str) -> None:
    layer = nvfp4(generator(), (48, 64))
    checkpoint = opened(layer.named(stored), metadata_of({listed: "nvfp4"}))

    is_exact(checkpoint, {stored: layer.weight})
    assert [(problem.code, problem.severity) for problem in checkpoint.problems] == [("F8C002", severity)]


def test_between_two_prefixes_that_do_equally_well_nothing_is_chosen() -> None:
    layer = nvfp4(generator(), (48, 64))
    tensors = {**layer.named("net.a"), **layer.named("model.a")}

    problems = opened(tensors, metadata_of({"a": "nvfp4"})).problems

    assert ("F8L109", "a.weight") in {(problem.code, problem.tensor) for problem in problems}
    assert any(problem.refuses for problem in problems)


def test_metadata_wins_over_a_marker_that_says_otherwise_and_both_are_named() -> None:
    layer = fp8(generator(), (32, 32))
    tensors = {**layer.named("a"), "a.comfy_quant": marker({"format": "float8_e5m2"})}

    checkpoint = opened(tensors, metadata_of({"a": {"format": "float8_e4m3fn"}}))

    is_exact_but_for_verify = [problem for problem in checkpoint.problems if problem.code == "F8L103"]
    assert [problem.tensor for problem in is_exact_but_for_verify] == ["a.comfy_quant"]
    assert ("float8_e4m3fn" in is_exact_but_for_verify[0].expected) and "float8_e5m2" in is_exact_but_for_verify[0].got
    assert not checkpoint.verify().ok
    same_bits(checkpoint.dequantize("a"), layer.weight)


def raw_cast() -> dict[str, Stored]:
    """FP8 without scales, and a norm."""
    weight = fp8(generator(), (32, 32)).tensors["weight"]
    return {f"{PREFIX}blocks.0.mlp.weight": weight, f"{PREFIX}blocks.0.norm.weight": Stored("BF16", (4,), bytes(8))}


def test_a_raw_cast_is_no_scaled_fp8() -> None:
    checkpoint = opened(raw_cast())

    assert checkpoint.format.name == "unquantized"
    assert {problem.code for problem in checkpoint.problems} == {"F8L101"}


def refused(checkpoint: Checkpoint, *named: str) -> None:
    """Verify and load both refuse, and both name these."""
    report = checkpoint.verify("scales")
    with pytest.raises(Fp8LoadError) as caught:
        checkpoint.plan().load()
    said = "\n".join(f"{f.tensors} {f.modules} {f.file} {f.message} {f.expected} {f.got}" for f in report.findings)
    assert not report.ok
    for text in named:
        assert text in str(caught.value), str(caught.value)
        assert text in said, said


def complete(kind: str) -> tuple[dict[str, Stored], dict[str, str] | None]:
    """Three blocks of one kind with input scales where the kind has them."""
    tensors: dict[str, Stored] = {"blocks.norm.weight": Stored("BF16", (4,), bytes(8))}
    for number in range(3):
        name = f"blocks.{number}.mlp"
        if kind == "legacy":
            tensors |= fp8(generator(), (32, 32), scale="scale_weight").named(name)
            tensors[f"{name}.scale_input"] = f32(0.5)
            continue
        layer = {"nvfp4": nvfp4, "mxfp8": mxfp8, "float8_e4m3fn": fp8}[kind.removeprefix("marked ")](
            generator(), (32, 64)
        )
        tensors |= layer.named(name)
        if "mxfp8" not in kind:
            tensors[f"{name}.input_scale"] = f32(0.5)
        if kind.startswith("marked "):
            tensors[f"{name}.comfy_quant"] = marker(kind.removeprefix("marked "))
    if kind == "legacy":
        tensors["scaled_fp8"] = Stored("F8_E4M3", (0,), b"")
    listed = metadata_of({f"blocks.{number}.mlp": kind for number in range(3)})
    return tensors, None if kind == "legacy" or kind.startswith("marked ") else listed


KINDS = ("legacy", "nvfp4", "mxfp8", "float8_e4m3fn", "marked nvfp4", "marked mxfp8", "marked float8_e4m3fn")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_tensor_is_lost_is_named(kind: str) -> None:
    tensors, metadata = complete(kind)
    assert opened(tensors, metadata).verify("weights").ok
    for lost in tensors:
        if lost == "blocks.norm.weight":  # no configuration says that there is one
            continue
        refused(opened({name: tensor for name, tensor in tensors.items() if name != lost}, metadata), lost)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_another_shape_is_named(kind: str) -> None:
    tensors, metadata = complete(kind)
    name = "blocks.1.mlp." + ("scale_weight" if kind == "legacy" else "weight_scale")
    dtype, shape, data = tensors[name]
    tensors[name] = Stored(dtype, (*shape[:-1], 2 * (shape[-1] if shape else 1)), data * 2)

    refused(opened(tensors, metadata), name)


def test_a_bias_that_cannot_be_that_of_the_weight_is_named() -> None:
    layer = nvfp4(generator(), (48, 64))
    for num_rows in (32, 49):
        tensors = {**layer.named("a"), "a.bias": Stored("BF16", (num_rows,), bytes(2 * num_rows))}

        refused(opened(tensors, metadata_of({"a": "nvfp4"})), "a.bias")


def test_scales_that_lie_in_rows_are_not_taken_for_swizzled_ones() -> None:
    layer = nvfp4(generator(), (48, 64))
    rows = Stored("F8_E4M3", (48, 4), bytes(range(48 * 4)))

    refused(opened({**layer.named("a"), "a.weight_scale": rows}, metadata_of({"a": "nvfp4"})), "a.weight_scale",
            "[128, 4]")  # fmt: skip


@pytest.mark.parametrize(
    ("said", "named"),
    [({"format": "int8_tensorwise"}, "int8_tensorwise"), ("w4a4", "w4a4"), ({}, "format"), ([1], "[1]"),
     ({"format": "nvfp4", "full_precision_matrix_mult": "yes"}, "yes")],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_layers_name(said: Any, named: str) -> None:
    refused(opened(nvfp4(generator(), (48, 64)).named("deep.a"), metadata_of({"deep.a": said})), named, "deep.a")


@pytest.mark.parametrize(
    "content",
    [Stored("U8", (5,), b"{not "), Stored("U8", (2,), b"17"), Stored("F32", (1,), bytes(4)), Stored("U8", (0,), b""),
     Stored("U8", (MARKER_CAP + 1,), b'"nvfp4"'.ljust(MARKER_CAP + 1)),
     Stored("U8", (30,), b'{"format": "a", "format": "b"}')],
)  # fmt: skip
def test_a_marker_that_cannot_be_read_is_named(content: Stored) -> None:
    refused(opened({**nvfp4(generator(), (48, 64)).named("a"), "a.comfy_quant": content}), "a.comfy_quant")


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": []}', '{"format_version": "1.0"}'])
def test_metadata_that_cannot_be_read_is_named(text: str) -> None:
    tensors = nvfp4(generator(), (48, 64)).named("a")

    refused(opened(tensors, {"_quantization_metadata": text}), "flux.safetensors", "_quantization_metadata")


def test_two_files_whose_metadata_disagree_are_refused() -> None:
    layers = {"a": nvfp4(generator(), (48, 64)), "b": nvfp4(generator(), (48, 64))}
    said = {"a": {"a": "nvfp4", "b": "nvfp4"}, "b": {"b": "mxfp8"}}
    files = {f"{n}.safetensors": comfyui.file_of(layers[n].named(n), metadata_of(said[n])) for n in "ab"}

    refused(fp8load.open(MemorySource(files)), "b.safetensors", "b", "mxfp8")


def test_a_legacy_marker_of_another_dtype_is_refused() -> None:
    tensors = fp8(generator(), (32, 32), scale="scale_weight").named("a")

    refused(opened({"scaled_fp8": Stored("BF16", (1,), bytes(2)), **tensors}), "scaled_fp8", "BF16")


def test_tensor_parallelism_is_refused_by_name() -> None:
    checkpoint = opened(nvfp4(generator(), (48, 64)).named("a"), metadata_of({"a": "nvfp4"}))

    with pytest.raises(Fp8LoadError, match="tp_size=1"):
        checkpoint.plan(tp_size=2)


def test_a_plan_of_tiles_that_the_file_does_not_have_is_not_proved() -> None:
    checkpoint = opened(nvfp4(generator(), (48, 64)).named("a"), metadata_of({"a": "nvfp4"}))
    plan = checkpoint.plan()
    scale = plan.tensors["a.weight_scale"]

    with pytest.raises(Fp8LoadError, match="whole tiles"):
        prove(plan.layout, {**plan.tensors, scale.name: scale._replace(end=scale.end - 1)})


def test_typed_parameters_without_a_plan_take_tensors_in_order_only() -> None:
    checkpoint = opened(nvfp4(generator(), (48, 64)).named("a"), metadata_of({"a": "nvfp4"}))
    scheme = checkpoint.lowered.modules["a"].scheme

    with pytest.raises(Fp8LoadError, match="another order") as caught:
        ColumnParallelLinear(64, 48, scheme=scheme)
    assert caught.value.code == "USE803"
    assert ColumnParallelLinear(64, 48, scheme=scheme.in_memory()).shape == (48, 64)


def test_opening_reads_the_markers_and_nothing_else_of_the_tensors() -> None:
    tensors: dict[str, Stored] = {}
    for number in range(50):
        tensors |= nvfp4(generator(), (128, 256)).named(f"{number}.a")
        tensors[f"{number}.a.comfy_quant"] = marker("nvfp4")
    checkpoint = opened(tensors)

    file = checkpoint.index.files["flux.safetensors"]
    assert checkpoint.source.meter.nbytes <= file.header_nbytes + 512 + 50 * len(b'"nvfp4"')


def test_a_skeleton_keeps_what_the_file_says_inside() -> None:
    tensors, _ = complete("marked nvfp4")
    index = opened(tensors, metadata_of({"blocks.0.mlp": "nvfp4"})).index

    again = parse_skeleton(write_skeleton(index))

    assert again.embedded == index.embedded


def test_a_zero_scale_of_a_block_of_zeros_is_no_error() -> None:
    layer = nvfp4(generator(), (48, 64))
    dtype, shape, data = layer.tensors["weight_scale"]
    tensors = {**layer.named("a"), "a.weight_scale": Stored(dtype, shape, b"\0" + data[1:])}

    report = opened(tensors, metadata_of({"a": "nvfp4"})).verify("scales")

    assert [(finding.code, finding.severity) for finding in report.findings] == [("F8L702", "info")]


def test_a_nan_among_swizzled_scales_is_found_at_its_place_in_the_matrix() -> None:
    layer = nvfp4(generator(), (200, 128))
    dtype, shape, data = layer.tensors["weight_scale"]
    place = np.zeros((208, 8), np.uint8)
    place[150, 5] = 1
    at = int(np.flatnonzero(comfyui.swizzled(place))[0])
    tensors = {**layer.named("a"), "a.weight_scale": Stored(dtype, shape, data[:at] + b"\x7f" + data[at + 1 :])}

    found = opened(tensors, metadata_of({"a": "nvfp4"})).verify("scales").findings

    assert [finding.code for finding in found] == ["F8L701"]
    assert "[150, 5]" in found[0].got


shapes = st.tuples(st.integers(1, 400), st.integers(1, 40))


@given(shape=shapes, seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_unswizzling_undoes_the_definition(shape: tuple[int, int], seed: int) -> None:
    scale = generator(seed).integers(1, 256, shape, np.uint8)

    rows = row_major(comfyui.swizzled(scale).tobytes(), padded_shape(shape)[1])

    assert rows.shape == padded_shape(shape)
    assert np.array_equal(rows[: shape[0], : shape[1]], scale)
    assert not rows[shape[0] :].any()
    assert not rows[:, shape[1] :].any()


def as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@given(shape=shapes, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_box_of_a_swizzled_scale_is_read_from_whole_rows_of_tiles(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    row0, col0 = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    row1, col1 = data.draw(st.integers(row0 + 1, shape[0])), data.draw(st.integers(col0 + 1, shape[1]))
    scale = generator().integers(1, 127, shape, np.uint8)
    content = comfyui.swizzled(scale).tobytes()
    meta = TensorMeta("s", DType.F8_E4M3, shape, "f", 100, 100 + len(content))
    src = Box((row0, col0), (row1, col1))
    target = torch.zeros((row1 - row0 + 3, col1 - col0), dtype=torch.uint8).view(torch.float8_e4m3fn)
    dst = Box((2, 0), (row1 - row0 + 2, col1 - col0))

    for segment in segments(
        iter([Copy("s", src, "p", "", dst, None, repack=Repack.UNSWIZZLE)]), {"s": meta}, {"p": target}
    ):
        assert isinstance(segment, Staged)
        assert 100 <= segment.begin < segment.end <= meta.end
        segment.place(as_tensor(content[segment.begin - 100 : segment.end - 100]))

    got = target.view(torch.uint8).numpy()
    assert np.array_equal(got[2:-1], scale[row0:row1, col0:col1])
    assert not got[:2].any()
    assert not got[-1:].any()


@given(groups=st.integers(1, 5), pitch=st.integers(2, 90), cols=st.integers(1, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_rows_of_groups_come_out_of_a_swizzled_scale(groups: int, pitch: int, cols: int, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, pitch - 1))
    end = data.draw(st.integers(begin + 1, pitch))
    scale = generator().integers(1, 127, (groups * pitch, cols), np.uint8)
    content = comfyui.swizzled(scale).tobytes()
    meta = TensorMeta("s", DType.F8_E4M3, scale.shape, "f", 0, len(content))
    rows = groups * (end - begin)
    target = torch.zeros((rows, cols), dtype=torch.uint8).view(torch.float8_e4m3fn)
    src, dst = Box((0, begin, 0), (groups, end, cols)), Box((0, 0), (rows, cols))
    copy = Copy("s", src, "p", "", dst, None, view=(groups, pitch, cols), repack=Repack.UNSWIZZLE)

    for segment in segments(iter([copy]), {"s": meta}, {"p": target}):
        segment.place(as_tensor(content[segment.begin : segment.end]))

    expected = scale.reshape(groups, pitch, cols)[:, begin:end].reshape(rows, cols)
    assert np.array_equal(target.view(torch.uint8).numpy(), expected)


def test_a_scale_larger_than_a_chunk_is_read_in_pieces() -> None:
    num_rows, num_cols = 128 * 5 + 7, CHUNK_NBYTES // 256
    rows = np.arange(num_rows * num_cols, dtype=np.uint8).reshape(num_rows, num_cols) % 126
    padded = np.zeros(padded_shape((num_rows, num_cols)), np.uint8)
    padded[:num_rows] = rows
    tiles = padded.reshape(-1, 4, 32, num_cols // 4, 4).transpose(0, 3, 2, 1, 4)
    content = np.ascontiguousarray(tiles).tobytes()
    meta = TensorMeta("s", DType.F8_E4M3, rows.shape, "f", 0, len(content))
    whole = Box((0, 0), rows.shape)
    target = torch.zeros(rows.shape, dtype=torch.uint8).view(torch.float8_e4m3fn)

    copy = Copy("s", whole, "p", "", whole, None, repack=Repack.UNSWIZZLE)
    found = list(segments([copy], {"s": meta}, {"p": target}))
    for segment in found:
        segment.place(as_tensor(content[segment.begin : segment.end]))

    assert len(found) > 1
    assert np.array_equal(target.view(torch.uint8).numpy(), rows)


@given(rows=st.integers(1, 300), cols=st.integers(1, 300), seed=st.integers(0, 99), mx=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_shape_is_exact(rows: int, cols: int, seed: int, mx: bool) -> None:
    layer: Layer = with_bias((mxfp8 if mx else nvfp4)(generator(seed), (rows, cols)), rows)

    is_exact(opened(layer.named("a"), metadata_of({"a": "mxfp8" if mx else "nvfp4"})), {"a": layer.weight})
