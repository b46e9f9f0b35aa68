"""What numpy makes of a weight is what torch makes of it, bit for bit, and what the bytes mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fp8load
from docs.forms import Example, forms
from fp8load.checkpoint import Checkpoint
from fp8load.dtypes import DType
from fp8load.index.build import build_index
from fp8load.runtime.plain import dequantize_module
from fp8load.scheme import PerBlock, PerTensor, Role
from fp8load.source.memory import MemorySource
from fp8load.values.dequantize import Dequantizer, dequantizer_of, real_rows
from oracle import comfyui
from rules.examples import checkpoint_of, written

FOLDERS = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints").iterdir() if path.is_dir()
)
NOT_WRITTEN = ("comfyui", "torchao-metadata")
"""Forms whose markers a skeleton does not hold."""

FORMS = [example for example in forms() if not example.key.startswith(NOT_WRITTEN)]


def assert_alike(checkpoint: Checkpoint, nbytes: int, *, fewest: int = 1) -> None:
    """Every module's weight by both ways."""
    count = 0
    for info in checkpoint.lowered.modules.values():
        rows = real_rows(checkpoint, info, nbytes=nbytes)
        assert rows is not None, info
        got = np.concatenate([band for _, band in rows])
        expected = dequantize_module(checkpoint, info.name).numpy().reshape(got.shape)
        assert np.array_equal(got.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32)), info.name
        count += info.scheme is not None
    assert count >= fewest


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_checkpoint_is_dequantized_as_torch_does_it(folder: Path) -> None:
    with fp8load.open(folder) as checkpoint:
        assert_alike(checkpoint, 700)


@pytest.mark.parametrize("example", FORMS, ids=lambda example: example.key)
def test_every_form_is_dequantized_as_torch_does_it(example: Example) -> None:
    source = MemorySource(written(example.text, {}))
    checkpoint = Checkpoint(source, build_index(source), allow_unscaled="--allow-unscaled" in example.detect)

    assert_alike(checkpoint, 5000)


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp8"])
@pytest.mark.parametrize("nbytes", [1000, 1 << 20])
def test_swizzled_scales_and_high_nibbles_first_mean_what_the_format_says(kind: str, nbytes: int) -> None:
    layer = getattr(comfyui, kind)(np.random.default_rng(3), (304, 96))
    tensors = {**layer.named("a"), "a.comfy_quant": comfyui.marker({"format": kind})}
    source = MemorySource({"model.safetensors": comfyui.file_of(tensors)})
    checkpoint = Checkpoint(source, build_index(source))

    rows = real_rows(checkpoint, checkpoint.lowered.modules["a"], nbytes=nbytes)

    assert rows is not None
    assert np.array_equal(np.concatenate([band for _, band in rows]), layer.weight)


def test_a_residual_and_the_scale_before_quantization_belong_to_the_weight() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(8, dtype=np.float32).reshape(4, 2)
    s, w = np.array([1, 2, 4], dtype=np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)
    made = Dequantizer(
        granularity=PerTensor(), scale=np.array([[0.5]], "<f4").view("<u4"), pre_quant=s, low_rank=(a, b)
    )

    assert np.array_equal(made.real(w[1:3].copy(), np.arange(1, 3)), ((w * 0.5 + b @ a) * s)[1:3])


def test_partial_blocks_and_chosen_rows() -> None:
    scale = np.arange(1, 7, dtype="<f4").reshape(3, 2)
    made = Dequantizer(granularity=PerBlock(2, 4), scale=scale.view("<u4"), scale_dtype=DType.F32)

    got = made.real(np.ones((3, 6), np.float32), np.array([0, 3, 4]))

    assert got.tolist() == [[1] * 4 + [2] * 2, [3] * 4 + [4] * 2, [5] * 4 + [6] * 2]


def test_a_scale_that_does_not_fit_its_weight_gives_nothing() -> None:
    skeleton = (
        'config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", '
        '"weight_block_size": [128, 128]}}\n'
        "m.down_proj.weight F8_E4M3 [256, 256]\nm.down_proj.weight_scale_inv F32 [3, 2]\n"
    )
    checkpoint = checkpoint_of(skeleton)
    info = checkpoint.lowered.modules["m.down_proj"]

    assert info.tensors[Role.WEIGHT].shape == (256, 256)
    assert dequantizer_of(checkpoint, info) is None or info.scheme is None
