"""Updates between processes: gloo on the CPU, one trainer and one engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fp8load.runtime import updates
from under_test import pythonpath

PRELUDE = """
import sys, datetime, torch, torch.distributed as dist
import fp8load
from fp8load.errors import LoadError
from fp8load.runtime import updates
from runtime.updating import FOLDER, newer, stored, frozen
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=60))
NAME = "ct-phi3-fp8-static-kv"
tensors = newer(stored(FOLDER / NAME))
"""

CASES = {
    "every tensor arrives as it was sent, in chunks that are bounded": """
if rank == 0:
    updates.send(tensors, src=0, max_nbytes=20_000)
else:
    model, sizes = fp8load.load(FOLDER / NAME, tp_rank=1, tp_size=2), []
    def chunks():
        for chunk in updates.receive(src=0):
            sizes.append((len(chunk), sum(tensor.nbytes for _, tensor in chunk)))
            yield chunk
    model.reload(chunks())
    twin = fp8load.load(FOLDER / NAME, tp_rank=1, tp_size=2)
    twin.reload(tensors)
    assert frozen(model) == frozen(twin)
    assert len(sizes) > 5 and all(count == 1 or size <= 20_000 for count, size in sizes), sizes
""",
    "scalars, empty tensors and every dtype": """
sent = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "last": torch.ones(3, dtype=torch.bfloat16),
        **{str(dtype): torch.arange(5).to(dtype) for dtype in (torch.uint8, torch.int8, torch.float16, torch.int64)},
        "fp8": torch.randn(7, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn),
        "columns": torch.arange(6.0).view(2, 3).T,
        "e8m0": torch.tensor([1, 2, 255], dtype=torch.uint8).view(torch.float8_e8m0fnu)}
if rank == 0:
    updates.send(iter(sent.items()), src=0)
    updates.send({}, src=0)
else:
    got = {name: tensor for chunk in updates.receive(src=0) for name, tensor in chunk}
    assert list(got) == list(sent)
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        if tensor.dtype.itemsize == 1:
            tensor, got[name] = tensor.view(torch.uint8), got[name].view(torch.uint8)
        assert torch.equal(got[name], tensor), name
    assert list(updates.receive(src=0)) == []
""",
    "a receiver that refuses a tensor keeps in step, and keeps its old weights": """
if rank == 0:
    try:
        updates.send([("nonsense", torch.ones(1)), *tensors.items()], src=0, max_nbytes=10_000)
    except LoadError as error:
        assert error.code == "FILL734" and "1 of 1 receivers" in str(error), error
        assert "rank 1: FILL720" in str(error) and "(nonsense)" in str(error), error
    else:
        raise AssertionError("the sender did not learn of it")
else:
    model = fp8load.load(FOLDER / NAME)
    before = frozen(model)
    try:
        model.reload(updates.receive(src=0))
    except LoadError as error:
        assert error.code == "FILL720", error
    else:
        raise AssertionError("nothing was refused")
    assert frozen(model) == before
answer = torch.tensor([rank])
dist.broadcast(answer, 0)
assert answer.item() == 0
""",
    "what is refused in the middle, and what is missing at the end, is known to the sender": """
scale = next(name for name in tensors if name.endswith("weight_scale"))
middle = list(tensors.items())[:9] + [("odd", torch.ones(1))] + list(tensors.items())[9:]
short = {name: tensor for name, tensor in tensors.items() if name != scale}
for sent, code in ((middle, "FILL720"), (short, "FILL724"), (tensors, "")):
    if rank == 0:
        try:
            updates.send(sent, src=0, max_nbytes=1)
        except LoadError as error:
            assert code and f"rank 1: {code}" in str(error), error
        else:
            assert not code
    else:
        model = fp8load.load(FOLDER / NAME)
        try:
            model.reload(updates.receive(src=0))
        except LoadError as error:
            assert error.code == code, error
        else:
            assert not code and model.mixed == ()
""",
    "what stands between a receiver and its model is known to the sender, inside a with block": """
def renamed(chunks):
    for chunk in chunks:
        yield [(name.removeprefix("policy."), tensor) for name, tensor in chunk]
        if name_of_the_last(chunk):
            raise ZeroDivisionError("a long line " + "\u00e4" * 2000)
def name_of_the_last(chunk):
    return any("lm_head" in name for name, _ in chunk)
if rank == 0:
    try:
        updates.send({f"policy.{name}": tensor for name, tensor in tensors.items()}, src=0, max_nbytes=10_000)
    except LoadError as error:
        assert "rank 1: FILL727" in str(error) or "rank 1: ZeroDivisionError: a long line" in str(error), error
    else:
        raise AssertionError("the sender did not learn of it")
else:
    model = fp8load.load(FOLDER / NAME)
    try:
        with updates.receive(src=0) as chunks:
            model.reload(renamed(chunks))
    except (LoadError, ZeroDivisionError):
        pass
    else:
        raise AssertionError("nothing was refused")
""",
    "a consumer that stops early has refused, and is in step": """
if rank == 0:
    try:
        updates.send(tensors, src=0, max_nbytes=1)
    except LoadError as error:
        assert "rank 1: it stopped receiving" in str(error), error
    else:
        raise AssertionError("the sender did not learn of it")
else:
    chunks = iter(updates.receive(src=0))
    next(chunks)
    chunks.close()
dist.barrier()
""",
    "a sender that fails after a receiver has refused tells nobody twice, and both are in step": """
def broken():
    yield "nonsense", torch.ones(1)
    yield from list(tensors.items())[:4]
    raise ZeroDivisionError("the step diverged")
try:
    if rank == 0:
        updates.send(broken(), src=0, max_nbytes=1)
    else:
        fp8load.load(FOLDER / NAME).reload(updates.receive(src=0))
except (ZeroDivisionError, LoadError) as error:
    assert isinstance(error, ZeroDivisionError) if rank == 0 else error.code == "FILL720", error
else:
    raise AssertionError("nothing failed")
dist.barrier()
""",
    "an error of which a line is too long for an answer is cut": """
if rank == 0:
    try:
        updates.send({"a": torch.ones(1)}, src=0)
    except LoadError as error:
        assert "rank 1: ValueError: ööö" in str(error) and len(error.got) < 1100, error
else:
    try:
        with updates.receive(src=0) as chunks:
            raise ValueError("ö" * 5000 + "\\nmore")
    except ValueError:
        pass
""",
    "a sender that fails tells its receivers": """
def broken():
    yield "model.norm.weight", tensors["model.norm.weight"]
    raise ZeroDivisionError("the step diverged")
if rank == 0:
    try:
        updates.send(broken(), src=0, max_nbytes=1)
    except ZeroDivisionError:
        pass
else:
    model = fp8load.load(FOLDER / NAME)
    try:
        model.reload(updates.receive(src=0))
    except LoadError as error:
        assert error.code == "FILL727" and "rank 0" in str(error), error
    else:
        raise AssertionError("nobody was told")
dist.barrier()
""",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """What both processes said, and what went wrong; they start once, because that takes longest."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "cases.py"
    done = "".join(f"{code}\nprint({case!r}, flush=True)\n" for case, code in CASES.items())
    script.write_text(f"{PRELUDE}\n{done}\ndist.destroy_process_group()\n")
    tests = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([pythonpath(folder), tests])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder / "rendezvous")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=180) for process in ranks]
    return "\n".join(errors for _, errors in said), [out for out, _ in said]


@pytest.mark.parametrize("case", CASES)
def test_between_two_processes(case: str, answers: tuple[str, list[str]]) -> None:
    errors, said = answers

    assert all(case in out.splitlines() for out in said), errors


def test_a_receiver_that_has_no_memory_for_a_chunk_takes_part_in_nothing_more(monkeypatch) -> None:
    """Its next broadcast would meet the chunk's own."""
    calls: list[str] = []

    def short(*_: object) -> None:
        calls.append("chunk")
        raise torch.OutOfMemoryError("no room for a chunk")

    monkeypatch.setattr(updates, "_lengths", lambda *_: (calls.append("lengths"), (8, 1 << 40))[1])
    monkeypatch.setattr(updates, "_receive_chunk", short)
    monkeypatch.setattr(updates, "_answers", lambda *_: calls.append("answer"))

    with pytest.raises(torch.OutOfMemoryError), updates.receive(src=0) as chunks:
        list(chunks)

    assert calls == ["lengths", "chunk"]
