"""Ranks of one host that read together: what several need is read by one of them and handed on by torch.distributed.

What a rank needs alone it reads as if it were alone. The rest goes in rounds: in each, every rank reads a window, all
gather all windows, and each takes its pieces out of them. A rank that fails takes part in the remaining rounds, so that
nobody waits for it, and then all raise: no rank has a model that others lack.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from fp8load.errors import LoadError, Problem
from fp8load.fusion import FusionPlan, Progress
from fp8load.runtime.ahead import BUFFER_NBYTES
from fp8load.runtime.devices import current
from fp8load.runtime.execute import execute, nbytes_kept
from fp8load.runtime.lanes import GAP_NBYTES
from fp8load.runtime.pinned import Mark
from fp8load.runtime.rounds import Rounds, nbytes_of
from fp8load.runtime.schedule import divided, needs_of, rounds, windows
from fp8load.runtime.segments import Segment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    Group = ProcessGroup | DeviceMesh


PATIENCE = 1.0
"""Seconds that a device may take before another rank is suspected to have gone."""

POLL_SECONDS = 1e-4

_all_gather = vars(dist).get("all_gather_single", dist.all_gather_into_tensor)
"""torch 2.13 has a new name for it, and warns of the one that 2.11 has."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rank cannot go on, for the others to say."""

    rank: int
    message: str


class Host:
    """The ranks of a group that are on this host, and what they tell each other.

    `group` is made of processes that all load at the same time, each its own rank of one checkpoint. Bytes go through
    it; words go through a group of gloo, which notices at once that a process has gone, as NCCL does not.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        whole = _process_group(group)
        self.name = f"rank {dist.get_rank(whole)} of {dist.get_world_size(whole)}"
        everyone = dist.get_process_group_ranks(whole)
        talk = _talk(whole, [everyone])
        by_host: dict[str, list[int]] = {}
        for rank, host in zip(everyone, _gathered(host_id(), talk), strict=True):
            by_host.setdefault(host, []).append(rank)
        if len(by_host) > 1:
            with current(device):
                whole = _one_of(list(by_host.values()))
            talk = _talk(whole, list(by_host.values()))
        self._group, self._talk = whole, talk
        self._looking = threading.Lock()
        self._meeting: dist.Work | None = None
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
            return _gathered(what, self._talk)
        except LoadError:
            self._is_over = True
            raise

    def gather(self, mine: torch.Tensor, all_of_them: torch.Tensor) -> None:
        """Bytes [n] of every rank into [ranks, n]."""
        with _translated():
            _all_gather(all_of_them.view(-1), mine, group=self._group)

    def wait_for(self, mark: Mark) -> None:
        """Wait for a device, which waits for bytes of other ranks. If one has gone, which nobody tells the device,
        raises `LoadError` FILL733 within seconds."""
        patience = time.monotonic() + PATIENCE
        while not mark.query():
            time.sleep(POLL_SECONDS)
            if time.monotonic() > patience:
                with self._looking:
                    self._look(self._meet())

    def meet(self) -> None:
        """Wait until every rank has come here. Once for each load."""
        with self._looking:
            meeting = self._meet()
        while not meeting.is_completed():
            time.sleep(POLL_SECONDS)
        self._look(meeting)

    def _meet(self) -> dist.Work:
        """Come to where all ranks meet: early where another one may have gone, since only who is there notices."""
        if self._meeting is None:
            self._meeting = cast("dist.Work", dist.barrier(group=self._talk, async_op=True))
        return self._meeting

    def _look(self, meeting: dist.Work) -> None:
        if meeting.is_completed():
            try:
                with _translated():
                    meeting.wait()
            except LoadError:
                self.leave()
                raise

    def leave(self) -> None:
        """Nothing is exchanged any more; what the device waits for, it waits for no longer."""
        if not self._is_over and self._group is not self._talk:
            self._group.abort()
        self._is_over = True


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
    return _one_of([group.mesh.flatten().tolist()])


_made: WeakKeyDictionary[object, dict[object, ProcessGroup]] = WeakKeyDictionary()
"""Groups by what they are made of, of each world: torch.distributed keeps them until all are destroyed."""


def _one_of(sets: Sequence[Sequence[int]], backend: str | None = None) -> ProcessGroup:
    """That group of `sets`, of ranks of the world, which this process is in; made once, by all of them.

    torch calls a group that its members make by themselves after how many groups each of them is in. Where these are
    not as many they wait for each other for ever, so what the whole world has a part in the whole world makes.
    """
    made, key = _made.setdefault(dist.group.WORLD, {}), (backend, tuple(map(tuple, sets)))
    if key not in made:
        is_world = sum(map(len, sets)) == dist.get_world_size()
        groups = [
            dist.new_group(list(ranks), backend=backend, use_local_synchronization=not is_world)
            for ranks in sets
            if is_world or dist.get_rank() in ranks
        ]
        made[key] = next(each for each in groups if isinstance(each, dist.ProcessGroup))
    return made[key]


def _talk(group: ProcessGroup, sets: Sequence[Sequence[int]]) -> ProcessGroup:
    """A group of gloo with the same ranks as a group, which is one of `sets`: itself, or another."""
    return group if dist.get_backend(group) == "gloo" else _one_of(sets, "gloo")


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
    execute(plan, alone, device, progress)
    if shared:
        advance = None if progress is None else lambda done: progress(alone_nbytes + done, total)
        with current(device):
            together = Rounds(plan, device, host, max(window.nbytes for window in shared))
            host.tell(None)  # a rank that could not come this far says so before any waits for bytes of it
            together.run(rounds(shared, host.size), within, advance)
        host.tell(None)  # before what was gathered is looked at: a rank that failed has sent anything
