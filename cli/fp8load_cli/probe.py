"""`python -m fp8load_cli.probe [--device NAME] [--skip BACKEND]...`: asks torch and the backends; `doctor` runs it.

Writes lines of JSON, each of which adds to those before it: what is known stays known when a backend ends the process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fp8load.runtime.backend import Device


_LAYER, _STACK = (1024, 1024), (8, 1024, 1024)
"""What backends are asked with: a layer [N, K], and a stack of experts [E, N, K]."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="auto")
    parser.add_argument("--skip", action="append", default=[])
    options = parser.parse_args(arguments)
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - whatever torch's import raises is the answer
        _say(error=f"import torch: {type(error).__name__}: {error}")
        return
    _say(torch=torch.__version__, cuda=torch.version.cuda, devices=_devices())
    try:
        _ask_backends(options.device, options.skip)
    except Exception as error:  # noqa: BLE001 - what backends are asked with is broken, and that is the answer
        _say(broken=[{"name": "backends", "error": f"{type(error).__name__}: {error}"}])


def _say(**found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _devices() -> list[str]:
    import torch

    texts = []
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        texts.append(f"GPU {number}: {name}, sm{major}{minor}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    return texts


def _ask_backends(name: str, skip: Sequence[str]) -> None:
    from fp8load.runtime.devices import parse_device

    device, here = parse_device(name), parse_device("auto")
    is_here = device.kind == "cpu" or device.capability == here.capability
    layers, stacks = (_announced(group, device, skip) for group in ("fp8load.backends", "fp8load.grouped_backends"))
    for backend, experts in chain(zip(layers, repeat(False)), zip(stacks, repeat(True))):
        _say(trying=backend.name)
        found = asked(backend, device, run=is_here, experts=experts)
        _say(backends=[found], trying=None)
        if found["raised"] and device.kind == "cuda":
            _say(stopped=True)
            return


def _announced(group: str, device: Device, skip: Sequence[str]) -> Iterator[Any]:
    """The backends of an entry point group; a provider that raises is said to be broken."""
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            backends = list(point.load()(device))
        except Exception as error:  # noqa: BLE001 - a provider that fails in any way is a broken one
            _say(broken=[{"name": point.name, "error": f"{point.value}: {type(error).__name__}: {error}"}])
            continue
        yield from (backend for backend in backends if backend.name not in skip)


def asked(backend: Any, device: Device, *, run: bool, experts: bool = False) -> dict[str, Any]:
    """What a backend says about each common scheme, and what it computes where it says yes, unless it cannot `run`.

    experts  whether it is one of stacks of experts, as asked
    runs     kinds of schemes that it takes; every: whether these are all that were asked about
    error    the largest error of their products; None where nothing was run
    failed   kind -> what it raised, or how far it was from the truth
    raised   whether it raised anything
    reason   why not the others: the reason that depends on the device, if there is one
    """
    from fp8load.runtime.backend import Yes
    from fp8load_kernels.bench.schemes import COMMON

    shape = _STACK if experts else _LAYER
    verdicts = {kind: backend.supports(scheme, shape, device) for kind, scheme in COMMON.items()}
    found: dict[str, Any] = {"name": backend.name, "device": str(device), "error": None, "failed": {}, "raised": False,
                             "experts": experts}  # fmt: skip
    found["runs"] = [kind for kind, verdict in verdicts.items() if isinstance(verdict, Yes)]
    found["every"] = len(found["runs"]) == len(COMMON)
    found["reason"] = _reason(backend, device, shape)
    for kind in found["runs"] if run else ():
        try:
            error = _trial(backend, kind, device, experts=experts)
        except Exception as raised:  # noqa: BLE001 - whatever a backend raises is what is wrong with it
            found["failed"][kind] = f"{type(raised).__name__}: {(str(raised).splitlines() or [''])[0]}"
            found["raised"] = True
            continue
        if error is None:
            found["failed"][kind] = "the product is not finite"
        else:
            found["error"] = max(error, found["error"] or 0.0)
            if error > _tolerance():
                found["failed"][kind] = f"{error:.1e} away from the float64 product"
    return found


def _trial(backend: Any, kind: str, device: Device, *, experts: bool) -> float | None:
    """The error of a small product; None where that is not finite."""
    from math import isfinite

    import torch

    from fp8load_kernels.bench.accuracy import trial, trial_stack
    from fp8load_kernels.bench.schemes import COMMON

    error = (trial_stack if experts else trial)(backend, COMMON[kind], torch.device(device.kind))
    return error if isfinite(error) else None


def _tolerance() -> float:
    from fp8load_kernels.bench.accuracy import TOLERANCE

    return TOLERANCE


def _reason(backend: Any, device: Device, shape: tuple[int, ...]) -> str:
    """Why a backend does not run here: of its reasons the one that it would not give on every other device."""
    from fp8load.runtime.backend import No
    from fp8load.runtime.devices import parse_device
    from fp8load_kernels.bench.schemes import COMMON

    others = [parse_device(name) for name in ("cpu", "sm80", "sm89", "sm90", "sm100")]
    reasons = []
    for scheme in COMMON.values():
        verdict = backend.supports(scheme, shape, device)
        if isinstance(verdict, No):
            elsewhere = [backend.supports(scheme, shape, other) for other in others]
            reasons.append((all(other == verdict for other in elsewhere), verdict.reason))
    return min(reasons, key=lambda reason: reason[0])[1] if reasons else ""


if __name__ == "__main__":
    main()
