"""Checkpoint: what `fp8load.open` returns, and where every question about a checkpoint starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from fp8load.archs.base import Arch
from fp8load.archs.expected import arch_problems
from fp8load.archs.find import find_family
from fp8load.archs.model import Model, heads_of, model_of, other_dtypes, stacks_of
from fp8load.archs.readable import unreadable
from fp8load.errors import Fp8LoadError, PlanError, Problem, UsageError, raise_first
from fp8load.formats.base import CheckpointFormat
from fp8load.formats.locate import configurations, read_format
from fp8load.formats.lower import lower
from fp8load.formats.lowered import Lowered
from fp8load.formats.stacked import stored_name, stored_problems
from fp8load.formats.unquantized import UNQUANTIZED
from fp8load.fusion import FusionPlan
from fp8load.index.index import Index, TensorMeta
from fp8load.index.quiet_gc import quiet_gc
from fp8load.plan.build import build
from fp8load.plan.linear import SplitError
from fp8load.plan.online import Online, online
from fp8load.plan.plan import Rank
from fp8load.plan.prove import prove
from fp8load.plan.sizes import legal_sizes
from fp8load.source.base import Source
from fp8load.units import size

if TYPE_CHECKING:
    import torch

    from fp8load.contract import Contract
    from fp8load.engines.stored import Stored
    from fp8load.fixes import Fixes
    from fp8load.report import InspectReport, VerifyReport

Level = Literal["headers", "scales", "weights"]


def _family_problems(model: Model, lowered: Lowered) -> Iterator[Problem]:
    found = arch_problems(model, lowered)
    yield from stored_problems(found, lowered.pieces) if lowered.pieces else found


class Checkpoint:
    """A checkpoint by its headers and small files. Of its tensors only ComfyUI's markers, some bytes each, were read.

    Faults of the files do not raise here: `verify` reports them, everything else raises the first that matters.
    `allow_unscaled`: FP8 weights without a scale are raw casts, and load as scale 1 (see `fp8load.open`).
    """

    def __init__(self, source: Source, index: Index, *, allow_unscaled: bool = False) -> None:
        self.source = source
        self.index = index
        self.allow_unscaled = allow_unscaled

    @cached_property
    def _format(self) -> tuple[CheckpointFormat, tuple[Problem, ...]]:
        try:
            for located in configurations(self.index):
                return read_format(located), ()
        except Fp8LoadError as error:
            # Kept, not swallowed: verify reports it, and every other question raises it (`problems`).
            return UNQUANTIZED, (error.problem,)
        return UNQUANTIZED, ()

    @property
    def format(self) -> CheckpointFormat:
        """How the checkpoint says that it is quantized."""
        return self._format[0]

    @cached_property
    def lowered(self) -> Lowered:
        """Every module with its scheme."""
        with quiet_gc():
            arch = self.arch
            stacks = {} if arch is None else stacks_of(arch, self._family_config)
            transposed = arch is not None and any(
                entry.published is not None and entry.published.transposed for entry in arch.experts()
            )
            return lower(
                self.index.tensors,
                self.format,
                known=arch is not None,
                stacks=stacks,
                transposed=transposed,
                free=frozenset() if arch is None else other_dtypes(arch),
                heads=frozenset() if arch is None else heads_of(arch),
                allow_unscaled=self.allow_unscaled,
            )

    @cached_property
    def tensors(self) -> Mapping[str, TensorMeta]:
        """Every tensor as what it holds: the index's, but F4 [N, K] where the header says U8 [N, K/2], and a piece for
        each expert where one tensor holds all."""
        logical, pieces = self.lowered.logical, self.lowered.pieces
        if not logical:
            return self.index.tensors
        whole = {name: meta for name, meta in self.index.tensors.items() if name not in pieces}
        return {**whole, **logical}

    @cached_property
    def _family(self) -> tuple[Arch | None, tuple[Problem, ...]]:
        arch = find_family(self.index)
        fault = None if arch is None else unreadable(arch, self.index.configs.get(arch.config_file, {}))
        return (arch, ()) if fault is None else (None, (fault,))

    @property
    def arch(self) -> Arch | None:
        """The model family, or None where the files show none that is known, or none that config.json describes."""
        return self._family[0]

    @cached_property
    def model(self) -> Model | None:
        """The family with this checkpoint's sizes."""
        if self.arch is None:
            return None
        return model_of(self.arch, self._family_config, self.lowered)

    @property
    def _family_config(self) -> Mapping[str, Any]:
        """The document that has the family's numbers."""
        return {} if self.arch is None else self.index.configs.get(self.arch.config_file, {})

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that headers and configuration show to be wrong, files first."""
        fmt, unread = self._format
        family = () if self.model is None else tuple(_family_problems(self.model, self.lowered))
        lowered = () if unread else self.lowered.problems
        return (*self.index.problems, *unread, *self._family[1], *fmt.problems, *lowered, *family)

    def summary(self) -> InspectReport:
        """What the checkpoint holds: `fp8load inspect --json`. Raises the first fault of files or configuration."""
        from fp8load.inspection import inspect_report

        raise_first([*self.index.problems, *self._format[1]])
        with quiet_gc():
            return inspect_report(self)

    def contract(self) -> Contract:
        """What a sender of new weights has to deliver: `fp8load inspect --contract`. Raises the first fault."""
        from fp8load.contract_of import contract_of

        raise_first(self.problems)
        with quiet_gc():
            return contract_of(self.source, self.index, self.lowered)

    @cached_property
    def stored(self) -> Stored:
        """What the files hold, as rules about engines look at it."""
        from fp8load.engines.stored import Stored

        return Stored(self)

    def verify(
        self,
        level: Level | None = None,
        *,
        tp: Sequence[int] | None = None,
        engine: str | Sequence[str] | None = None,
        arch: str | None = None,
        against: Checkpoint | None = None,
        hash: bool = False,
    ) -> VerifyReport:
        """Run the rules: `fp8load verify --json`. Never raises for a fault of the checkpoint; see `raise_for_errors`.

        `level` says what may be read: headers, the scales (the default where reading is cheap), or all weights.
        `tp` makes block alignment an error for these sizes, `engine` ("vllm@0.33", or several) what these engines read
        wrongly or not at all, `arch` ("sm90") what that GPU does not run. `against` is another checkpoint of the same
        model, in any form: the report then says how far each weight is from its; all of both is read. `hash` compares
        the files with the checksums that were published, where those are known; all of them are read. Raises
        `UsageError` for names of no engine and no GPU.
        """
        from fp8load.verify import verify_report

        with quiet_gc():
            return verify_report(self, level=level, tp=tp, engine=engine, arch=arch, against=against, hash=hash)

    def fix(
        self,
        codes: Sequence[str] = (),
        *,
        level: Level | None = None,
        engine: str | Sequence[str] | None = None,
        arch: str | None = None,
    ) -> Fixes:
        """What `verify --fix` would do: `.diff()` shows it, `.write(folder)` writes a repaired copy. Nothing is changed
        in place.

        Without `codes`: errors and warnings that can be repaired exactly and in one way. With them, only faults of
        these codes (or prefixes of codes): also what is only noted; and, for a full code, what is lossy or a choice.

        `engine` and `arch` as for `verify`: faults that only the engines or the GPU that are named have are repaired
        too.
        """
        from fp8load.fixes import plan_fixes

        return plan_fixes(self, codes, level=level, engine=engine, arch=arch)

    def legal_tp(self) -> list[int]:
        """Tensor-parallel sizes up to 64 that split every layer; [1] for an unknown family."""
        return list(self._legal_tp)

    @cached_property
    def _legal_tp(self) -> tuple[int, ...]:
        return (1,) if self.model is None else tuple(legal_sizes(self.model, self.lowered))

    def plan(
        self,
        *,
        tp_rank: int = 0,
        tp_size: int = 1,
        ep_rank: int = 0,
        ep_size: int = 1,
        fuse: bool = True,
        quantize: str | None = None,
    ) -> FusionPlan:
        """The proved plan for one rank.

        `fuse=False` is for models whose q, k and v, gate and up are modules of their own: each linear layer keeps the
        name that it has on disk. Experts are stacked all the same. `quantize` ("fp8-tensor", "fp8-channel",
        "fp8-block"): linear layers and experts of an unquantized checkpoint become FP8 while they are loaded;
        embeddings, heads, norms and routers do not.

        Raises the first fault that makes loading wrong, and `PlanError` for a size that does not split, with the sizes
        that do.
        """
        try:
            rank = Rank(tp_rank=tp_rank, tp_size=tp_size, ep_rank=ep_rank, ep_size=ep_size)
        except (ValueError, TypeError) as error:
            raise UsageError(Problem(code="USE012", message=str(error))) from error
        raise_first(self.problems)
        held = Online(self.lowered, self.index, self.tensors)
        if quantize is None:
            return self._planned(held, rank, fuse=fuse)
        with quiet_gc():
            narrow = online(self.model, held, quantize)
        base = self._planned(held, rank, fuse=fuse)
        return replace(self._planned(narrow, rank, fuse=fuse), base=base, quantize=quantize)

    def _planned(self, held: Online, rank: Rank, *, fuse: bool) -> FusionPlan:
        """The proved plan of a checkpoint as it is, or as it will be."""
        lowered, index, tensors = held.lowered, held.index, held.tensors
        try:
            with quiet_gc():
                layout = build(self.model, lowered, rank, fuse=fuse)
        except SplitError as error:
            legal = (
                self._legal_tp if self.model is None or lowered is self.lowered else legal_sizes(self.model, lowered)
            )
            sizes = ", ".join(str(size) for size in legal) or "none"
            hint = f"tp sizes that work for every layer: {sizes}"
            hint += '; quantize="fp8-channel" has no blocks to cut' if lowered is not self.lowered else ""
            tensor = stored_name(error.problem.tensor, lowered.pieces)
            raise PlanError(replace(error.problem, tensor=tensor, hint=hint)) from error
        with quiet_gc():
            num_elements = prove(layout, tensors)
        return FusionPlan(
            source=self.source,
            index=index,
            layout=layout,
            num_elements=num_elements,
            arch=self.arch.name if self.arch else None,
            tensors=tensors,
            lowered=lowered,
        )

    def dequantize(self, module: str) -> torch.Tensor:
        """One module's weight as stored on disk, float32 [N, K]; unquantized weights are widened.

        `module` is a name on disk ("model.layers.0.self_attn.q_proj"). Raises `UsageError` for an unknown one.
        """
        from fp8load.runtime.plain import dequantize_module

        raise_first(self.problems)
        return dequantize_module(self, module)

    def plain_tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """The checkpoint as an unquantized one: (name, tensor) for each weight and plain tensor, no scales.

        Arithmetic is float32; the result is rounded once, to `dtype` (default float32).
        """
        from fp8load.runtime.plain import plain_tensors

        raise_first(self.problems)
        return plain_tensors(self, dtype)

    def close(self) -> None:
        """Close files and connections."""
        self.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        num_quantized = sum(info.scheme is not None for info in self.lowered.modules.values())
        held = f"{size(self.index.nbytes)}, {num_quantized:,} quantized modules"
        return f"Checkpoint({self.source.info.id}: {self.format.title}, {held})"
