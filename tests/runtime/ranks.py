"""One process of several that load together: `python -m runtime.ranks OUT RANK SIZE FOLDER SCENARIO`.

Writes what it loaded, or the error that it got, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fp8load
from fp8load.runtime import ahead, execute, files, lanes, posix_aio, rounds, segments, sharing
from fp8load.runtime.model import LoadedModel

SMALL = 6000


def digest(model: LoadedModel) -> str:
    """Of every byte of every parameter and tensor, with names."""
    found = hashlib.sha256()
    for name, layer in model.items():
        for key, param in sorted(layer.named_parameters()):
            found.update(f"{name}.{key}".encode() + param.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, tensor in sorted(model.tensors.items()):
        found.update(name.encode() + tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def options(rank: int, size: int, scenario: str) -> dict[str, int]:
    if scenario == "tp x ep":
        return {"tp_rank": rank % 2, "tp_size": 2, "ep_rank": rank // 2, "ep_size": size // 2}
    return {"tp_rank": rank, "tp_size": size}


def loaded(rank: int, size: int, folder: str, scenario: str) -> dict[str, object]:
    """Load as the scenario says."""
    group: sharing.Group = dist.group.WORLD
    if scenario.startswith("two hosts"):
        sharing.host_id = lambda: str(rank // 2)
    if scenario == "two hosts, a rank in one more group":
        dist.new_group([0])
    if scenario == "mesh":
        from torch.distributed.device_mesh import init_device_mesh

        group = init_device_mesh("cpu", (size,), mesh_dim_names=("tp",))
        with fp8load.open(folder) as opened:
            model = fp8load.load(opened.source, group=group)
    else:
        if scenario == "a read fails" and rank == 1:
            files.os.preadv = failing
            posix_aio.AsyncReads.wait = failing_wait
        if scenario == "placing fails" and rank == 1:
            rounds.place = failing
        if scenario == "a rank dies while the device waits for it":
            rounds.Slot.queue = dies if rank == 1 else waits_forever
        if scenario == "a rank dies" and rank == 1:
            execute.execute = sharing.execute = lambda *_: os._exit(9)
        if scenario == "no room for rounds" and rank == 1:
            rounds._Slot.__init__ = full
        if scenario == "a round breaks" and rank == 1:
            sharing.Host.gather = broken
        if scenario == "a round breaks while threads wait for the device" and rank == 1:
            posix_aio.is_available = lambda: False
            rounds.Slot.queue = breaks
            sharing.Host.leave = left
        progress = out_of_patience if scenario == "a progress fails" and rank == 1 else None
        model = fp8load.open(folder).plan(**options(rank, size, scenario)).load(group=group, progress=progress)
    shared = {"digest": digest(model), "nbytes": int(COUNTED["nbytes"])}
    alone = fp8load.open(folder).plan(**options(rank, size, scenario)).load()
    return {**shared, "alone": digest(alone), "nbytes_alone": COUNTED["nbytes"] - shared["nbytes"]}


COUNTED = {"nbytes": 0}
_read, _start, _wait = files.Files.read, posix_aio.AsyncReads.start, posix_aio.AsyncReads.wait


def failing(*_: object) -> int:
    raise OSError(5, "Input/output error")


def full(*_: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory")


def broken(*_: object) -> None:
    raise ValueError("an error that nobody foresaw")


def out_of_patience(done: int, total: int) -> None:
    if done > total // 2:  # the first half are rounds too
        raise ValueError("out of patience")


class Never:
    """What a device does not get done, since another rank does not do its part."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        raise AssertionError("this would never return")


class NotBefore(Never):
    """What a device does no longer wait for when this rank has left."""

    def query(self) -> bool:
        return bool(LEFT)


LEFT: list[bool] = []
_leave = sharing.Host.leave
QUEUED = iter(range(1000))


def left(self: sharing.Host) -> None:
    _leave(self)
    LEFT.append(True)


def breaks(self: rounds.Slot, work: Callable[[], None]) -> Never:
    if next(QUEUED) < 3:  # fewer than buffers
        return NotBefore()
    time.sleep(1)  # threads wait for one
    raise ValueError("an error that nobody foresaw")


def waits_forever(self: rounds.Slot, work: Callable[[], None]) -> Never:
    """NCCL queues its part and returns; the bytes of a rank that has gone never come."""
    return Never()


def dies(self: rounds.Slot, work: Callable[[], None]) -> Never:
    os._exit(9)


def failing_wait(self: posix_aio.AsyncReads) -> list[tuple[int, OSError]]:
    return [(slot, OSError(5, "Input/output error")) for slot, _ in _wait(self)]


def counting(self: files.Files, batch: files.Batch, buffers: list[memoryview]) -> None:
    COUNTED["nbytes"] += batch.nbytes
    _read(self, batch, buffers)


def counting_start(self: posix_aio.AsyncReads, wanted: list[posix_aio.Read]) -> list[int]:
    COUNTED["nbytes"] += sum(read.nbytes for read in wanted)
    return _start(self, wanted)


def main(out: str, rank: int, size: int, folder: str, scenario: str) -> None:
    ahead.BUFFER_NBYTES = sharing.BUFFER_NBYTES = execute.BUFFER_NBYTES = SMALL
    lanes.GAP_NBYTES = sharing.GAP_NBYTES = 64
    segments.CHUNK_NBYTES = execute.CHUNK_NBYTES = SMALL // 2
    files.Files.read = counting
    posix_aio.AsyncReads.start = counting_start
    store = dist.FileStore(f"{out}.store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        answer = loaded(rank, size, folder, scenario)
    except fp8load.Fp8LoadError as error:
        answer = {"error": str(error), "code": error.problem.code}
    except (OSError, ValueError, torch.OutOfMemoryError) as error:
        answer = {"error": str(error), "code": ""}
    Path(f"{out}.{rank}").write_text(json.dumps(answer))
    if not scenario.startswith(("a rank dies", "a round breaks")):  # it would wait for the others
        dist.destroy_process_group()


if __name__ == "__main__":
    _, path, number, count, where, what = sys.argv
    main(path, int(number), int(count), where, what)
    sys.stdout.flush()
    os._exit(0)  # gloo's threads of a rank that has gone may still wait
