"""`python -m fp8load_cli.probe`: asks torch and the backends, and writes one line of JSON. `doctor` runs it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fp8load.runtime.backend import Device
    from fp8load.scheme import LinearScheme


_SHAPES = {"fp8load.backends": (1024, 1024), "fp8load.grouped_backends": (8, 1024, 1024)}
"""Groups of entry points, and what their backends are asked with: a layer [N, K], or a stack of experts [E, N, K]."""


def main() -> None:
    """Print what was found."""
    found: dict[str, Any] = {"torch": None, "cuda": None, "devices": [], "backends": [], "broken": []}
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - whatever torch's import raises is the answer
        found["error"] = f"import torch: {type(error).__name__}: {error}"
    else:
        found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
        found["devices"] = list(_devices())
        _ask_backends(found)
    sys.stdout.write(json.dumps(found) + "\n")


def _devices() -> list[str]:
    import torch

    texts = []
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        texts.append(f"GPU {number}: {name}, sm{major}{minor}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    return texts


def _ask_backends(found: dict[str, Any]) -> None:
    import torch

    from fp8load.runtime.backend import device_of

    device = device_of(torch.device("cuda" if torch.cuda.device_count() else "cpu"))
    points = [(point, shape) for group, shape in _SHAPES.items()
              for point in sorted(entry_points(group=group), key=lambda point: point.name)]  # fmt: skip
    for point, shape in points:
        try:
            for backend in point.load()(device):
                found["backends"].append(_asked(backend, shape, device))
        except Exception as error:  # noqa: BLE001 - a provider that fails in any way is a broken one
            found["broken"].append({"name": point.name, "error": f"{point.value}: {type(error).__name__}: {error}"})


def _asked(backend: Any, shape: tuple[int, ...], device: Device) -> dict[str, Any]:
    from fp8load.runtime.backend import Yes

    runs, reasons = [], []
    for kind, scheme in _schemes().items():
        verdict = backend.supports(scheme, shape, device)
        if isinstance(verdict, Yes):
            runs.append(kind)
        else:
            reasons.append(verdict.reason)
    return {"name": backend.name, "runs": runs, "reason": reasons[0] if reasons else "", "device": str(device)}


def _schemes() -> dict[str, LinearScheme]:
    """One scheme of each common kind: what a line of doctor can name."""
    from fp8load.dtypes import DType
    from fp8load.scheme import LinearScheme, PerBlock, PerChannel, PerGroup, PerTensor, PerToken, QuantSpec

    def spec(granularity: Any, scale_dtype: DType | None = DType.F32) -> QuantSpec:
        return QuantSpec(dtype=DType.F8_E4M3, granularity=granularity, scale_dtype=scale_dtype)

    return {
        "per tensor": LinearScheme(weight=spec(PerTensor()), input=spec(PerTensor()), input_static=True),
        "per channel": LinearScheme(weight=spec(PerChannel()), input=spec(PerToken(), None)),
        "128x128 blocks": LinearScheme(weight=spec(PerBlock(128, 128)), input=spec(PerGroup(128), None)),
    }


if __name__ == "__main__":
    main()
