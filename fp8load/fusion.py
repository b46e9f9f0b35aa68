"""FusionPlan: a proved layout together with the files that it reads from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from fp8load.dtypes import BITS
from fp8load.errors import Problem, UsageError
from fp8load.formats.lowered import Lowered
from fp8load.index.index import Index, TensorMeta
from fp8load.patterns import fold
from fp8load.plan.online import BATCH_NBYTES
from fp8load.plan.plan import Copy, LayerSpec, Layout, ParamSpec, Rank, Skip
from fp8load.source.base import Source
from fp8load.units import size

if TYPE_CHECKING:
    from fp8load.contract import Contract
    from fp8load.runtime.model import LoadedModel
    from fp8load.runtime.sharing import Group

MAX_SLOTS = 4
"""Slots of one tensor that are explained one by one: q, k and v. One scale of all experts has hundreds."""

Progress = Callable[[int, int], None]
"""Called with bytes read so far and bytes in all; the library itself never draws."""


@dataclass(frozen=True, kw_only=True)
class FusionPlan:
    """Which parameters one rank makes and which bytes of which file fill each of their elements.

    Proved when it was made: `num_elements` elements, each written exactly once. `tensors` are the index's, as what they
    hold: F4 [N, K] where the header says U8 [N, K/2]. `lowered` is every module of the checkpoint, on any rank.
    `quantize`: how weights are quantized while they are loaded; `base` is then the plan of what the files hold.
    """

    source: Source
    index: Index
    layout: Layout
    num_elements: int
    arch: str | None
    tensors: Mapping[str, TensorMeta]
    lowered: Lowered
    base: FusionPlan | None = None
    quantize: str | None = None

    @property
    def rank(self) -> Rank:
        """The rank that the plan is for."""
        return self.layout.rank

    @property
    def layers(self) -> Mapping[str, LayerSpec]:
        """Quantized linear layers under their fused names."""
        return self.layout.layers

    @property
    def params(self) -> Mapping[str, ParamSpec]:
        """Every parameter by name, scales and plain tensors included."""
        return self.layout.params

    @property
    def copies(self) -> tuple[Copy, ...]:
        """Every copy from a file into a parameter."""
        return self.layout.copies

    @property
    def skips(self) -> tuple[Skip, ...]:
        """Tensors that this rank leaves on disk, with the reason."""
        return self.layout.skips

    @cached_property
    def digest(self) -> str:
        """What identifies the headers that the plan was made from, 64 hexadecimal digits."""
        return self.index.digest()

    @cached_property
    def contract(self) -> Contract:
        """What a sender of new weights has to deliver: the same for every rank."""
        from fp8load.contract_of import contract_of

        return contract_of(self.source, self.index, self.lowered)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory that the parameters of this rank take."""
        return sum(prod(spec.shape) * BITS[spec.dtype] // 8 for spec in self.params.values())

    @cached_property
    def nbytes_read(self) -> int:
        """Bytes of the files that this rank reads: what it keeps, and whole weights that it quantizes.

        A box that is read for several slots counts once.
        """
        made, held = self._quantized, (self.base or self).tensors
        boxes = {(copy.source, copy.src) for copy in self.copies if copy.source in held and copy.source not in made}
        kept = sum(src.num_elements * BITS[held[source].dtype] // 8 for source, src in boxes)
        return kept + sum(made.values())

    @cached_property
    def nbytes_staged(self) -> int:
        """Bytes that loading takes beside `nbytes` at most, for weights that are quantized, as the files have them."""
        sizes = self._quantized.values()
        return min(sum(sizes), max(BATCH_NBYTES, *sizes)) if sizes else 0

    @cached_property
    def _quantized(self) -> Mapping[str, int]:
        """The weights of this rank that are quantized while they are loaded, and their bytes in the files."""
        if self.base is None:
            return {}
        held = self.base.tensors
        found = (copy.source for copy in self.copies if copy.source in held)
        return {name: held[name].nbytes for name in found if held[name].dtype is not self.tensors[name].dtype}

    @cached_property
    def copied_of_files(self) -> Mapping[str, Sequence[TensorMeta]]:
        """The tensors that are copied out of each file, as its header has them."""
        found: dict[str, dict[str, TensorMeta]] = {}
        stored = self.index.tensors
        for source in dict.fromkeys(copy.source for copy in self.copies):
            # A piece of a tensor that holds all experts is not in the file's header: the tensor is.
            meta = stored[source if source in stored else source.rpartition("[")[0]]
            found.setdefault(meta.file, {})[meta.name] = meta
        return {file: tuple(metas.values()) for file, metas in found.items()}

    def copies_of(self, tensor: str) -> Iterator[Copy]:
        """The copies that read `tensor`."""
        return (copy for copy in self.copies if copy.source == tensor)

    def explain(self, tensor: str) -> str:
        """One tensor followed from disk to its parameter. Raises `UsageError` for a name the checkpoint lacks."""
        meta = self.tensors.get(tensor)
        if meta is None and tensor in self.index.tensors:
            return "\n".join(self._explained_stack(self.index.tensors[tensor]))
        if meta is None:
            raise UsageError(Problem(code="USE010", message="no such tensor in the checkpoint", tensor=tensor,
                                     hint=self._near(tensor)))  # fmt: skip
        return "\n".join(self._explained(meta))

    def _near(self, name: str) -> str:
        """What may have been meant by a name that no tensor has: what a parameter is made of, or a longer name."""
        made_of = list(dict.fromkeys(copy.source for copy in self.copies if copy.param == name))
        if made_of:
            return f"this is a parameter of the plan, made of {', '.join(made_of)}"
        if f"{name}.weight" in self.index.tensors:
            return f"did you mean {name}.weight?"
        close = next((known for known in self.index.tensors if known.startswith(name)), "")
        return f"did you mean {close}?" if close else "`fp8load inspect --tensors` lists all"

    def _explained_stack(self, meta: TensorMeta) -> Iterator[str]:
        """A tensor that holds all experts: the piece of this rank's first expert, which stands for all."""
        pieces = [piece for name, piece in self.tensors.items() if name.startswith(f"{meta.name}[")]
        copied = {copy.source for copy in self.copies}
        held = [piece for piece in pieces if piece.name in copied]
        yield f"{meta.name}    {meta}    {meta.file} @ {meta.begin:,}"
        here = "" if len(held) == len(pieces) else f", {len(held)} of them on this rank"
        yield f"  stacked  {len(pieces)} pieces, one for each expert{here}; the first:"
        yield from self._explained((held or pieces)[0])

    def _on_disk(self, meta: TensorMeta) -> str:
        """What a file holds of a tensor, which may become another while it is loaded."""
        found = meta if self.base is None else self.base.tensors.get(meta.name)
        return f"{meta}    made while loading" if found is None else f"{found}    {found.file} @ {found.begin:,}"

    def _explained(self, meta: TensorMeta) -> Iterator[str]:
        yield f"{meta.name}    {self._on_disk(meta)}"
        skipped = next((skip for skip in self.skips if skip.source == meta.name), None)
        if skipped is not None:
            yield f"  skipped  {skipped.reason}"
        layer = None
        alike: dict[tuple[object, ...], list[Copy]] = {}
        for copy in self.copies_of(meta.name):
            alike.setdefault((copy.param, copy.src, copy.view), []).append(copy)
        for copies in alike.values():
            spec = self.params[copies[0].param]
            if layer is None and spec.module in self.layers:
                layer = self.layers[spec.module]
                yield f"  scheme   {layer.scheme}"
            together = [copies] if len(copies) > MAX_SLOTS else [[copy] for copy in copies]
            for several in together:
                yield from self._explained_copies(meta, spec, several)

    def _explained_copies(self, meta: TensorMeta, spec: ParamSpec, copies: Sequence[Copy]) -> Iterator[str]:
        """Where one box of a tensor goes: into one slot, or into several that share it."""
        copy = copies[0]
        if copy.slot and len(spec.slots) > 1:
            slots = ", ".join(pattern for pattern, _ in fold(copy.slot for copy in copies))
            which = "slot" if len(copies) == 1 else f"{len(copies)} slots"
            yield f"  fuse     {spec.module.rpartition('.')[2]}, {which} {slots}    from archs/{self.arch}"
        shape = copy.view or meta.shape
        if self.rank.tp_size > 1 and copy.src.shape != shape:
            yield f"  shard    {self.rank}: {list(copy.src.shape)} of {list(shape)}"
        seen = f" of {list(copy.view)}" if copy.view else ""
        order = ", stored columns first" if copy.transposed else ""
        cast = f", {meta.dtype} widened to {copy.cast}" if copy.cast else ""
        repack = f", {copy.repack}" if copy.repack else ""
        more = f" and {len(copies) - 1} more like it" if len(copies) > 1 else ""
        yield f"  copy     disk {copy.src}{seen}  ->  {copy.param} {copy.dst}{more}{order}{cast}{repack}"

    def load(
        self,
        *,
        device: str = "cpu",
        backend: str | Sequence[str] | None = None,
        requantize: str | None = None,
        progress: Progress | None = None,
        group: Group | None = None,
    ) -> LoadedModel:
        """Read every planned byte into its parameter, seal, and prepare the layers.

        `backend` forces a kernel backend or raises `BackendError`; None chooses. Of several names every layer takes the
        first that runs it; a stack of experts asks grouped backends first, and runs one expert after the other by a
        backend of layers. The names of grouped ones alone leave the choice for other layers. `requantize="max"` gives
        all parts of a fused per-tensor layer one scale, which is lossy; by default each keeps its own.

        `group`: a process group of torch.distributed, or a device mesh, all of whose ranks load now, each its own plan:
        bytes that several ranks of a host need are read once and handed on. On CUDA `torch.cuda.set_device` comes
        first. When one rank fails, all raise.

        Raises `UnfilledSlotError` when a slot stayed unwritten or a scale is not finite, `ChangedError` when a file
        changed, `LoadError` when memory is not enough or another rank failed.
        """
        from fp8load.runtime.model import load_plan

        return load_plan(self, device=device, backend=backend, requantize=requantize, progress=progress, group=group)

    def __repr__(self) -> str:
        return (
            f"FusionPlan({self.rank}: {len(self.index.tensors):,} tensors -> {len(self.layers):,} quantized layers, "
            f"{len(self.params):,} parameters, {size(self.nbytes)})"
        )
