"""What is loaded is what the files mean, bit for bit: dequantize(load(plan)) == shard(fuse(dequantize(disk)))."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from oracle.catalog import FOLDER, NAMES, config_of
from oracle.dequantize import dequantized, is_scale, tensors, values
from oracle.shard import MEMBERS, legal_sizes, misfits, quantized_modules, sharded

RANKS = [
    pytest.param(name, rank, size, id=f"{name}-rank{rank}of{size}")
    for name in NAMES
    for size in (1, 2, 4)
    if size in legal_sizes(FOLDER / name)
    for rank in range(size)
]
ILLEGAL = [
    pytest.param(name, size, id=f"{name}-tp{size}")
    for name in NAMES
    for size in range(2, 9)
    if size not in legal_sizes(FOLDER / name)
]


@lru_cache(maxsize=4)
def expected_of(name: str, rank: int, size: int) -> dict[str, np.ndarray]:
    """The oracle's answer for one rank."""
    return sharded(dequantized(FOLDER / name), config_of(FOLDER / name), rank, size)


@lru_cache(maxsize=4)
def loaded(name: str, rank: int, size: int):
    """The library's answer for one rank."""
    import fp8load

    return fp8load.open(FOLDER / name).plan(tp_rank=rank, tp_size=size).load(device="cpu")


def assert_same_bits(got: torch.Tensor, expected: np.ndarray, name: str) -> None:
    """Equal shapes and equal float32 bit patterns; a zero's sign counts."""
    array = got.detach().float().contiguous().numpy()
    assert array.shape == expected.shape, name
    different = np.argwhere(array.view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32))
    if len(different):
        where = tuple(different[0])
        pytest.fail(f"{name}: {len(different)} elements differ, first {where}: {array[where]} != {expected[where]}")


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_the_quantized_modules_are_those_stored_in_eight_bits(name, rank, size):
    assert set(loaded(name, rank, size)) == quantized_modules(FOLDER / name)


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_every_quantized_module_dequantizes_to_the_oracle_bit_for_bit(name, rank, size):
    model = loaded(name, rank, size)
    for module in quantized_modules(FOLDER / name):
        got = model[module].dequantize()
        assert got.dtype == torch.float32
        assert_same_bits(got, expected_of(name, rank, size)[f"{module}.weight"], module)


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_biases_are_fused_and_split_like_the_rows_they_belong_to(name, rank, size):
    model = loaded(name, rank, size)
    for module in quantized_modules(FOLDER / name):
        expected = expected_of(name, rank, size).get(f"{module}.bias")
        if expected is None:
            assert model[module].bias is None, module
        else:
            assert_same_bits(model[module].bias, expected, f"{module}.bias")


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_everything_else_of_the_rank_lies_in_tensors_with_unquantized_groups_fused(name, rank, size):
    model = loaded(name, rank, size)
    quantized = quantized_modules(FOLDER / name)
    plain = {
        tensor: value
        for tensor, value in expected_of(name, rank, size).items()
        if tensor.rpartition(".")[0] not in quantized
    }

    assert {tensor for tensor in model.tensors if not is_scale(tensor)} == plain.keys()
    for tensor, value in plain.items():
        assert_same_bits(model.tensors[tensor], value, tensor)


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_plain_tensors_keep_the_dtype_that_they_have_on_disk(name, rank, size):
    model = loaded(name, rank, size)
    for tensor in model.tensors:
        if not is_scale(tensor):
            assert model.tensors[tensor].dtype == torch.bfloat16, tensor


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(("-kv", "kv-modefp8"))])
def test_kv_scales_keep_their_values_and_stay_with_their_attention(name):
    stored = {
        tensor: float(values(content).reshape(()))
        for tensor, content in tensors(FOLDER / name).items()
        if tensor.endswith(("k_scale", "v_scale"))
    }
    got = {tensor: value for tensor, value in loaded(name, 0, 1).tensors.items() if is_scale(tensor)}

    assert len(stored) == 4
    assert {tensor.replace("k_proj.", "").replace("v_proj.", ""): value for tensor, value in stored.items()} == {
        tensor.replace("k_proj.", "").replace("v_proj.", ""): float(value) for tensor, value in got.items()
    }


@pytest.mark.parametrize(("name", "rank", "size"), RANKS)
def test_input_scales_are_those_of_the_members_where_inputs_are_static(name, rank, size):
    folder = FOLDER / name
    stored = {
        tensor: float(values(content).reshape(()))
        for tensor, content in tensors(folder).items()
        if tensor.endswith("input_scale")
    }
    for module, layer in loaded(name, rank, size).items():
        if not stored:
            assert layer.input_scale is None, module
            continue
        prefix = module.rpartition(".")[0] if module.endswith(("qkv_proj", "gate_up_proj")) else module
        members = {value for tensor, value in stored.items() if tensor.startswith(f"{prefix}.")}
        assert set(layer.input_scale.flatten().tolist()) <= members, module


def test_one_modules_weight_as_stored_on_disk_dequantizes_to_the_oracle(checkpoint: Path):
    import fp8load

    ckpt = fp8load.open(checkpoint)
    for name, value in dequantized(checkpoint).items():
        if name.endswith("_proj.weight"):
            assert_same_bits(ckpt.dequantize(name.removesuffix(".weight")), value, name)


@pytest.mark.parametrize(("name", "size"), ILLEGAL)
def test_a_size_that_cuts_a_head_or_a_block_is_a_plan_error_that_lists_the_sizes_that_work(name, size):
    import fp8load
    from fp8load.errors import PlanError

    with pytest.raises(PlanError) as raised:
        fp8load.open(FOLDER / name).plan(tp_rank=0, tp_size=size)

    text = str(raised.value)
    fused = misfits(FOLDER / name, size)
    members = {f"model.layers.0.{member}" for module, all_of in MEMBERS.items() for member in all_of
               if f"model.layers.0.{module}" in fused}  # fmt: skip
    assert [module for module in fused | members if module in text], text
    numbers = {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.]*\w)", text)}
    assert numbers >= set(legal_sizes(FOLDER / name)), text


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_group_is_refused(rank):
    import fp8load
    from fp8load.errors import Fp8LoadError

    with pytest.raises((Fp8LoadError, ValueError)):
        fp8load.open(FOLDER / "ct-llama128-fp8-static").plan(tp_rank=rank, tp_size=2)
