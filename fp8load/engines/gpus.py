"""GPU architectures by the names that compilers give them, and what formats their tensor cores multiply.

Sources: NVIDIA's CUDA programming guide (FP8 from compute capability 8.9, FP4 and block scales from 10.0), AMD's ISA
documents (CDNA3 has fnuz FP8, CDNA4 OCP FP8 and FP4), Apple's Metal feature set tables (no 8-bit floats); memory from
the data sheets of the products in the titles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

from fp8load.errors import Problem, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An architecture. `capability` orders those of NVIDIA; 0 for others. `fnuz`: its FP8 has no negative zero.

    `memory_gb`: the sizes that its products for servers and workstations come in, 10**9 bytes, smallest first
    """

    name: str
    title: str
    capability: int = 0
    fp8: bool = False
    fp4: bool = False
    fnuz: bool = False
    memory_gb: tuple[int, ...] = ()


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="sm75", title="Turing (T4)", capability=75, memory_gb=(16,)),
        Gpu(name="sm80", title="Ampere (A100)", capability=80, memory_gb=(40, 80)),
        Gpu(name="sm86", title="Ampere (RTX 3090, A10)", capability=86, memory_gb=(24, 48)),
        Gpu(name="sm89", title="Ada (L4, L40, RTX 4090)", capability=89, fp8=True, memory_gb=(24, 48)),
        Gpu(name="sm90", title="Hopper (H100, H200)", capability=90, fp8=True, memory_gb=(80, 141)),
        Gpu(name="sm100", title="Blackwell (B200)", capability=100, fp8=True, fp4=True, memory_gb=(180,)),
        Gpu(name="sm103", title="Blackwell (B300)", capability=103, fp8=True, fp4=True, memory_gb=(288,)),
        Gpu(
            name="sm120",
            title="Blackwell (RTX 5090, RTX PRO 6000)",
            capability=120,
            fp8=True,
            fp4=True,
            memory_gb=(32, 96),
        ),
        Gpu(name="sm121", title="Blackwell (GB10)", capability=121, fp8=True, fp4=True, memory_gb=(128,)),
        Gpu(name="gfx90a", title="CDNA2 (MI250)"),
        Gpu(name="gfx942", title="CDNA3 (MI300)", fp8=True, fnuz=True),
        Gpu(name="gfx950", title="CDNA4 (MI350)", fp8=True, fp4=True),
        Gpu(name="mps", title="Apple's GPUs (Metal)"),
    )
}
"""By name, oldest first."""


def find_gpu(name: str) -> Gpu:
    """The architecture of this name ("sm90", "sm_90", "SM90A"). Raises `UsageError` that names the nearest."""
    wanted = name.strip().lower().replace("_", "")
    wanted = wanted.removesuffix("a") if wanted.startswith("sm") else wanted
    if wanted in GPUS:
        return GPUS[wanted]
    near = get_close_matches(wanted, GPUS, 3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(Problem(code="USE021", message="no such GPU architecture", got=name, hint=hint,
                             expected=", ".join(GPUS)))  # fmt: skip


def find_nvidia(name: str) -> Gpu:
    """An architecture that kernels may know. Raises `UsageError` that lists them, for AMD's too."""
    known = ", ".join(("auto", "cpu", *(gpu.name for gpu in GPUS.values() if gpu.capability)))
    try:
        gpu = find_gpu(name)
    except UsageError as error:
        raise UsageError(replace(error.problem, expected=known)) from error
    if gpu.capability:
        return gpu
    raise UsageError(Problem(code="USE021", message="no backend knows this GPU", got=f"{gpu.name}, {gpu.title}",
                             expected=known))  # fmt: skip
