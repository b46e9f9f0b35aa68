"""4-bit and microscaling checkpoints of real tools: found sound, loaded bit for bit, and refused when damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oracle.microscaling
from oracle.catalog import FOLDER, config_of, expected_findings, reference_logits
from oracle.decoder import relative_error
from oracle.microscaling import NAMES, dequantized
from oracle.plain_model import logits_of_plain_model
from oracle.shard import sharded

BF16_REFERENCES = (
    "ao-llamaodd-fp8wo",
    "ct-llama128-mixed-fp8-nvfp4",
    "ct-llama128-nvfp4",
    "ctmf-phi3-nvfp4a16",
    "quanto-llama128-fp8wo",
)
"""torchao, quanto, and compressed-tensors for NVFP4, round what they dequantize to BF16; these are of that."""

WITH_REFERENCE = tuple(name for name in NAMES if name != "qk-llama128-mxfp6e3m2")
"""The other one's only reference quantizes inputs: test_inputs compares with it."""


def opened(name: str):
    import fp8load

    return fp8load.open(FOLDER / name)


def same_bits(got: torch.Tensor, expected: np.ndarray, name: str) -> None:
    array = got.detach().float().contiguous().numpy()
    assert array.shape == expected.shape, name
    assert np.array_equal(array.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32)), name


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_the_oracle_itself_gives_the_reference_logits(name: str) -> None:
    input_ids, expected = reference_logits(FOLDER / name)
    weights = {key: torch.from_numpy(value.copy()) for key, value in dequantized(FOLDER / name).items()}
    if name in BF16_REFERENCES:
        for key in oracle.microscaling.tensors(FOLDER / name):
            base, _, suffix = key.rpartition(".")
            if suffix in ("weight_packed", "_weight_qdata", "_data"):
                plain = f"{base.removesuffix('.weight')}.weight"
                weights[plain] = weights[plain].bfloat16().float()

    assert relative_error(logits_of_plain_model(FOLDER / name, weights, input_ids), expected) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_plain_tensors_are_the_oracles_bit_for_bit(name: str) -> None:
    expected = dequantized(FOLDER / name)

    got = dict(opened(name).plain_tensors(dtype=torch.float32))

    assert got.keys() == expected.keys()
    for key, tensor in got.items():
        same_bits(tensor, expected[key], key)


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_loads_its_share_bit_for_bit(name: str) -> None:
    checkpoint, whole = opened(name), dequantized(FOLDER / name)
    for size in (size for size in checkpoint.legal_tp() if size <= 4):
        for rank in range(size):
            expected = sharded(whole, config_of(FOLDER / name), rank, size)
            model = checkpoint.plan(tp_rank=rank, tp_size=size).load()
            for module, layer in model.items():
                same_bits(layer.dequantize(), expected[f"{module}.weight"], f"{module} on rank {rank} of {size}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", ["headers", "scales", "weights"])
def test_verify_says_what_is_expected_and_nothing_else(name: str, level: str) -> None:
    report = opened(name).verify(level)

    expected = expected_findings(name)
    loud = {finding.code for finding in report.findings if finding.severity != "info"}
    assert set(expected.get("must", ())) <= loud <= {*expected.get("must", ()), *expected.get("may", ())}, loud
