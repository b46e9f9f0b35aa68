"""Does it run on this GPU: what the tensor cores multiply, what an engine does without, what kernels need of shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fp8load.dtypes import DType
from fp8load.engines.gpus import GPUS, Gpu
from fp8load.engines.profile import GpuFact, Kinds, Profile
from fp8load.engines.stored import Held, Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.errors import Severity
from fp8load.scheme import Role


def supported(profile: Profile, stored: Stored, target: Target) -> Iterator[Verdict]:
    """Layers that the engine does not run on the GPU (error), or not as they are stored (warning)."""
    gpu = target.gpu
    if gpu is None or not gpu.capability:
        return
    first = {held.kind: held for held in reversed(stored.held)}
    for kind, held in first.items():
        for fact in profile.gpus:
            if kind in fact.kinds and (not fact.formats or stored.format in fact.formats):
                yield from _on(fact, held, stored, gpu)


def _on(fact: GpuFact, held: Held, stored: Stored, gpu: Gpu) -> Iterator[Verdict]:
    oldest, native = GPUS[fact.oldest], GPUS[fact.native]
    if gpu.capability >= native.capability:
        return
    runs = gpu.capability >= oldest.capability
    text = f"runs {held.kind} on {gpu.name} with a fallback: {fact.fallback}" if runs else (
        f"does not run {held.kind} on {gpu.name}")  # fmt: skip
    info = held.modules[0]
    tensor, file = stored.stored_tensor(info, Role.WEIGHT)
    yield Verdict(
        text=text, module=info.name, tensor=tensor, file=file, got=gpu.title, loads=runs,
        expected=f"{native.name} or newer" if runs else f"{oldest.name} or newer",
        severity=Severity.WARNING if runs else Severity.ERROR,
        remedy="measure the accuracy of the fallback" if runs else "use a newer GPU, or an unquantized checkpoint",
    )  # fmt: skip


def multiplies(stored: Stored, gpu: Gpu) -> Iterator[Verdict]:
    """Whoever the reader is: kinds that the GPU's tensor cores do not multiply."""
    seen: set[str] = set()
    for held in stored.held:
        needs = "FP4" if "fp4" in held.kind else "FP8" if "fp8" in held.kind else ""
        has = {"FP4": gpu.fp4, "FP8": gpu.fp8, "": True}[needs]
        other = has and gpu.fnuz and held.scheme.weight.dtype is DType.F8_E4M3
        if (has and not other) or needs in seen or held.kind.endswith("-a16"):
            continue
        seen.add(needs)
        tensor, file = stored.stored_tensor(held.modules[0], Role.WEIGHT)
        least = next(one.name for one in GPUS.values() if (one.fp4 if needs == "FP4" else one.fp8))
        no_dtype = gpu.name == "mps" and needs == "FP8"  # ComfyUI#9263
        text = f"{gpu.name} has no {needs} tensor cores: engines fall back to weight-only kernels, or stop"
        if other:
            text = f"{gpu.name} multiplies FP8 of the fnuz kind only: engines convert weights and scales while loading"
        elif no_dtype:
            text = "mps has no 8-bit floats: PyTorch stops where it copies such a tensor to the GPU"
        yield Verdict(
            text=text, module=held.modules[0].name, tensor=tensor, file=file, got=gpu.title,
            expected="F8_E4M3FNUZ" if other else f"{least} or newer", severity=Severity.WARNING, loads=True,
            remedy="dequantize the checkpoint" if no_dtype
            else "name an engine with --engine to see what it does there",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What a kernel needs of N and K; `where` it is said."""

    kinds: Kinds
    gpus: tuple[str, ...]
    multiple: int
    kernel: str
    where: str


ALIGNMENTS = (
    Alignment(kinds=("fp8-tensor", "fp8-channel"), gpus=tuple(gpu.name for gpu in GPUS.values() if gpu.fp8),
              multiple=16, kernel="torch._scaled_mm", where="ColossalAI#6390; torch's own check"),
    Alignment(kinds=("fp8-block",), gpus=("sm120", "sm121"), multiple=128, kernel="CUTLASS's block kernel",
              where="vllm#47990"),
)  # fmt: skip
"""Rows and columns that kernels take as they are; an engine that pads (`Profile.pads`) hides it."""


def aligned(stored: Stored, gpu: Gpu, profiles: tuple[Profile, ...]) -> Iterator[Verdict]:
    """Layers whose rows or columns a kernel of this GPU does not take; a converter that is named multiplies nothing."""
    if profiles and all(profile.role == "converter" for profile in profiles):
        return
    for held in stored.held:
        padded = bool(profiles) and all(held.kind in profile.pads for profile in profiles)
        for rule in ALIGNMENTS:
            if held.kind not in rule.kinds or gpu.name not in rule.gpus or padded:
                continue
            for info in held.modules:
                shape = info.tensors[Role.WEIGHT].shape
                if all(size % rule.multiple == 0 for size in shape[-2:]):
                    continue
                tensor, file = stored.stored_tensor(info, Role.WEIGHT)
                yield Verdict(
                    text=f"{rule.kernel} does not take this shape on {gpu.name}", module=info.name, tensor=tensor,
                    file=file, expected=f"rows and columns that are multiples of {rule.multiple}",
                    got=str(info.tensors[Role.WEIGHT]), severity=Severity.WARNING, loads=True,
                    remedy="use an engine that pads, or another kernel",
                )  # fmt: skip
