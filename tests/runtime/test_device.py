"""Loading onto a GPU: the same bytes as on the CPU, and too little memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fp8load
from fp8load.errors import LoadError
from fp8load.runtime.memory import allocate
from fp8load.runtime.model import LoadedModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
PLANNED = sorted(
    path.name
    for path in FOLDER.iterdir()
    if path.is_dir() and path.name != "ctmf-gptoss-mxfp4a16"  # broken
)


def tensors_of(model: LoadedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, layer in model.items():
        yield from ((f"{name}.{key}", param.detach()) for key, param in layer.named_parameters())
    yield from model.tensors.items()


@pytest.mark.parametrize("name", PLANNED)
def test_a_gpu_gets_the_bytes_that_the_cpu_gets(name: str) -> None:
    plan = fp8load.open(FOLDER / name).plan()
    here = dict(tensors_of(plan.load(backend="reference")))
    there = dict(tensors_of(plan.load(device="cuda", backend="reference")))

    assert here.keys() == there.keys()
    for key, tensor in here.items():
        assert there[key].is_cuda
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), there[key].cpu().reshape(-1).view(torch.uint8)), key


def test_too_little_memory_is_an_error_and_gives_back_what_was_taken() -> None:
    """The second parameter is larger than any GPU."""
    plan = fp8load.open(FOLDER / "ct-llama128-fp8-static").plan()
    first, second, *_ = plan.params.values()
    huge = second._replace(layout=second.layout._replace(shape=(1 << 42, *second.shape[1:])))
    before = torch.cuda.memory_allocated()

    with pytest.raises(LoadError, match="FILL731") as refused:
        allocate([first, huge], torch.device("cuda"))

    assert huge.name in str(refused.value)
    del refused
    gc.collect()  # the error's traceback holds what had been taken
    assert torch.cuda.memory_allocated() == before
