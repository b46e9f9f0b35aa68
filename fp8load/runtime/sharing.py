"""Ranks of one host that read together: what several need is read by one of them and handed on by torch.distributed.

What a rank needs alone it reads as if it were alone. The rest goes in rounds: in each, every rank reads a window, all
gather all windows, and each takes its pieces out of them. A rank that fails takes part in the remaining rounds, so that
nobody waits for it, and then all raise: no rank has a model that others lack.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fp8load.errors import LoadError, Problem
from fp8load.fusion import FusionPlan, Progress
from fp8load.runtime.batches import Batch
from fp8load.runtime.execute import execute, nbytes_kept, num_threads
from fp8load.runtime.files import Files
from fp8load.runtime.lanes import BATCH_NBYTES, GAP_NBYTES, place, stream_of
from fp8load.runtime.schedule import Window, divided, needs_of, rounds, windows
from fp8load.runtime.segments import PAGE, Segment

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
        with self._here():
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
            with self._here():
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

    def _here(self) -> Any:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


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
    shared = windows(host.tell(needs_of(found)), BATCH_NBYTES, GAP_NBYTES)
    alone, within = divided(found, shared, host.rank)
    total, alone_nbytes = nbytes_kept(plan), _nbytes(alone)
    failed: Exception | None = None
    try:
        execute(plan, alone, device, progress)
    except Exception as error:  # noqa: BLE001 - raised below, when the others have been told
        failed = error
    if shared:
        advance = None if progress is None else lambda done: progress(alone_nbytes + done, total)
        failed = _Rounds(plan, device, host).run(rounds(shared, host.size), within, failed, advance)
    if failed is not None:
        raise failed
    host.tell(None)  # before what was gathered is looked at: a rank that failed has sent anything


def _nbytes(found: Iterable[Segment]) -> int:
    return sum(segment.nbytes for segment in found)


class _Rounds:
    """Windows that threads read ahead, gathered one round after the other, and cut into their places.

    Memory: a pinned buffer for each thread and two more; on the device a window, and one of each rank.
    """

    def __init__(self, plan: FusionPlan, device: torch.device, host: Host) -> None:
        self._plan, self._host = plan, host
        self._threads = num_threads(plan.source, device)
        self._stream = stream_of(device)
        self._buffers = [self._stream.pinned(BATCH_NBYTES + 2 * PAGE) for _ in range(self._threads + 2)]
        self._mine = torch.empty(BATCH_NBYTES, dtype=torch.uint8, device=device)
        self._all = torch.empty(host.size * BATCH_NBYTES, dtype=torch.uint8, device=device)

    def run(
        self,
        planned: Sequence[tuple[Window | None, ...]],
        within: Mapping[Window, tuple[Segment, ...]],
        failed: Exception | None,
        advance: Callable[[int], None] | None,
    ) -> Exception | None:
        """Every round, also after this rank has failed; the error, if there is one."""
        own = [each[self._host.rank] for each in planned]
        placed: list[Callable[[], None]] = []
        done = 0
        with (
            Files(self._plan, past_cache=True) as files,
            ThreadPoolExecutor(self._threads, thread_name_prefix="fp8load-read") as pool,
        ):
            reads: dict[int, Future[torch.Tensor]] = {}

            def read(at: int) -> None:
                """Begin to read a window, into the buffer of one whose copies are done."""
                window = own[at] if at < len(own) and failed is None else None
                if window is None:
                    return
                if at >= len(self._buffers):
                    placed[at - len(self._buffers)]()
                batch = Batch(window.file, window.begin, window.end, ())
                reads[at] = pool.submit(files.read_into, batch, self._buffers[at % len(self._buffers)])

            for at in range(self._threads):
                read(at)
            for at, each in enumerate(planned):
                read(at + self._threads)
                data: torch.Tensor | None = None
                try:
                    data = reads.pop(at).result() if at in reads else None
                except Exception as error:  # noqa: BLE001 - told to the others after the last round
                    failed = failed or error
                errors: list[Exception] = []
                placed.append(self._round(each, data, within if failed is None else {}, errors))
                failed = failed or next(iter(errors), None)
                done += sum(_nbytes(within.get(window, ())) for window in each if window is not None)
                if advance is not None:
                    advance(done)
            for wait in placed[-len(self._buffers) :]:
                wait()
        return failed

    def _round(
        self,
        each: Sequence[Window | None],
        data: torch.Tensor | None,
        within: Mapping[Window, tuple[Segment, ...]],
        errors: list[Exception],
    ) -> Callable[[], None]:
        """Queue one round; what is returned waits for it. Pieces that cannot be placed are `errors`: rounds go on."""
        longest = max(window.nbytes for window in each if window is not None)
        gathered = self._all[: self._host.size * longest].view(self._host.size, longest)

        def work() -> None:
            if data is not None:
                self._mine[: len(data)].copy_(data, non_blocking=True)
            self._host.gather(self._mine[:longest], gathered)
            for window, content in zip(each, gathered, strict=True):
                if window is not None and window in within:
                    try:
                        place(within[window], window.begin, content)
                    except Exception as error:  # noqa: BLE001 - told to the others after the last round
                        errors.append(error)

        return self._stream.queue(work)
