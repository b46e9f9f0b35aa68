"""Ranks of one host that read together: what several need is read by one of them and handed on by torch.distributed.

What a rank needs alone it reads as if it were alone. The rest goes in rounds: in each, every rank reads a window, all
gather all windows, and each takes its pieces out of them. A rank that fails takes part in the remaining rounds, so that
nobody waits for it, and then all raise: no rank has a model that others lack.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fp8load.errors import LoadError, Problem
from fp8load.fusion import FusionPlan, Progress
from fp8load.runtime.ahead import BUFFER_NBYTES
from fp8load.runtime.devices import current
from fp8load.runtime.execute import execute, nbytes_kept
from fp8load.runtime.lanes import GAP_NBYTES
from fp8load.runtime.rounds import Rounds, nbytes_of
from fp8load.runtime.schedule import divided, needs_of, rounds, windows
from fp8load.runtime.segments import Segment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    Group = ProcessGroup | DeviceMesh


_all_gather = vars(dist).get("all_gather_single", dist.all_gather_into_tensor)
"""torch 2.13 has a new name for it, and warns of the one that 2.11 has."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank cannot go on, for the others to say."""

    rank: int
    message: str


class Host:
    """The ranks of a group that are on this host, and what they tell each other.

    `group` is made of processes that all load at the same time, each its own rank of one checkpoint.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self._device = device
        whole = _process_group(group)
        self.name = f"rank {dist.get_rank(whole)} of {dist.get_world_size(whole)}"
        with current(self._device):
            hosts = _gathered(host_id(), whole)
        mine = [rank for rank, host in enumerate(hosts) if host == hosts[dist.get_rank(whole)]]
        if len(mine) < len(hosts):
            members = [dist.get_global_rank(whole, rank) for rank in mine]
            whole = dist.new_group(members, use_local_synchronization=True)
        self._group = whole
        self._is_over = False
        self.rank, self.size = dist.get_rank(whole), dist.get_world_size(whole)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all ranks do, or none: an error within is told to the others, and theirs is raised here."""
        try:
            yield
        except Exception as error:
            if not self._is_over:
                self._tell(Failure(self.rank, next(iter(str(error).strip().splitlines()), type(error).__name__)))
            raise
        self.tell(None)

    def tell(self, what: Any) -> list[Any]:
        """What every rank tells, by rank. Raises `LoadError` where one has gone, or says that it cannot go on."""
        told = self._tell(what)
        failed = next((each for each in told if isinstance(each, Failure)), None)
        if failed is not None:
            self._is_over = True
            raise LoadError(Problem(
                code="FILL732", message="another rank could not load its part", got=failed.message,
                expected="every rank of the group to load", module=f"rank {failed.rank} of {self.size} on this host",
                hint="nothing is loaded on any rank: mend what that rank says, and load again on all",
            ))  # fmt: skip
        return told

    def _tell(self, what: Any) -> list[Any]:
        try:
            with current(self._device):
                return _gathered(what, self._group)
        except LoadError:
            self._is_over = True
            raise

    def gather(self, mine: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """Bytes [n] of every rank into [ranks, n]."""
        try:
            with _translated():
                _all_gather(all_of_them.view(-1), mine, group=self._group)
        except LoadError:
            self._is_over = True
            raise


def host_id() -> str:
    """What two processes have in common that see the same page cache."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def rank_of(group: Group) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rank and size of the dimensions of a mesh that are named "tp" and "ep"; 0 of 1 where there is none."""
    if isinstance(group, dist.ProcessGroup):
        return (0, 1), (0, 1)
    names = group.mesh_dim_names or ()
    where = {name: (group.get_local_rank(name), group.size(at)) for at, name in enumerate(names)}
    return where.get("tp", (0, 1)), where.get("ep", (0, 1))


def _process_group(group: Group) -> ProcessGroup:
    if isinstance(group, dist.ProcessGroup):
        return group
    if group.ndim == 1:
        return group.get_group()
    made: ProcessGroup = dist.new_group(group.mesh.flatten().tolist(), use_local_synchronization=True)
    return made


def _gathered(what: Any, group: ProcessGroup) -> list[Any]:
    told: list[Any] = [None] * dist.get_world_size(group)
    with _translated():
        dist.all_gather_object(told, what, group=group)
    return told


class _translated:  # noqa: N801 - a context
    """Errors of torch.distributed as `LoadError`: a rank has gone, or did not answer in time."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            raise LoadError(Problem(
                code="FILL733", message="a rank of the group does not answer", got=str(error).strip().splitlines()[0],
                expected="every rank of the group to load at the same time",
                hint="its own output says why it ended; nothing is loaded here",
            )) from error  # fmt: skip


def execute_together(
    plan: FusionPlan, every: Iterable[Segment], device: torch.device, host: Host, progress: Progress | None
) -> None:
    """`execute` for all ranks of a host, within `host.together()`: every byte that some of them need is read once."""
    found = list(every)
    shared = windows(host.tell(needs_of(found)), BUFFER_NBYTES, GAP_NBYTES)
    alone, within = divided(found, shared, host.rank)
    total, alone_nbytes = nbytes_kept(plan), nbytes_of(alone)
    failed: Exception | None = None
    try:
        execute(plan, alone, device, progress)
    except Exception as error:  # noqa: BLE001 - raised below, when the others have been told
        failed = error
    if shared:
        advance = None if progress is None else lambda done: progress(alone_nbytes + done, total)
        with current(device):
            failed = Rounds(plan, device, host).run(rounds(shared, host.size), within, failed, advance)
    if failed is not None:
        raise failed
    host.tell(None)  # before what was gathered is looked at: a rank that failed has sent anything
