"""What `doctor` finds out. torch and the backends are asked in another process: a broken one cannot take us along."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from fp8load.engines.gpus import find_nvidia
from fp8load_cli.render.units import size
from fp8load_cli.reports import CheckReport, DoctorReport

_PACKAGES = ("torch", "safetensors", "huggingface_hub", "pydantic", "typer", "numpy", "triton")
_TIMEOUT = 300  # kernels are compiled when they first run
_LOW_SPACE = 20 * 2**30


def diagnose(device: str = "auto") -> DoctorReport:
    """Everything that the report says; backends are asked about `device`. Sends nothing over the network.

    Raises `UsageError` USE021 for a device that there is not.
    """
    if device.strip().lower() not in ("auto", "cpu"):
        find_nvidia(device)
    probe, failure = _probe(device)
    checks = [_torch(probe, failure), *_backends(probe), _hub(), _cache()]
    return DoctorReport(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        versions={name: _version(name) for name in _PACKAGES},
        devices=list(probe.get("devices", ())),
        device=device,
        checks=checks,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _probe(device: str) -> tuple[dict[str, Any], str]:
    """What the probe found, and how it failed if it did.

    A backend that ends the process, or never answers, is a broken one. After it, and after one that raised on a GPU,
    which may be of no use to the process any more, the others are asked in a new process.
    """
    crashed: list[dict[str, str]] = []
    asked: list[dict[str, Any]] = []
    while True:
        found, failure = _probed(device, [entry["name"] for entry in (*crashed, *asked)])
        asked += found.get("backends", ())
        trying = found.get("trying")
        if failure and trying:
            crashed.append({"name": trying, "error": f"the process that ran it {failure}"})
        elif not found.get("stopped"):
            return {**found, "backends": asked, "broken": [*crashed, *found.get("broken", ())]}, failure


def _probed(device: str, skip: Sequence[str]) -> tuple[dict[str, Any], str]:
    """One process: its lines, each added to those before it, and how it ended if not well."""
    command = [sys.executable, "-m", "fp8load_cli.probe", "--device", device]
    command += [word for name in skip for word in ("--skip", name)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired as error:
        said = error.stdout or ""
        return _together(said.decode() if isinstance(said, bytes) else said), f"did not answer within {_TIMEOUT} s"
    except OSError as error:
        return {}, error.strerror or str(error)
    found = _together(done.stdout)
    if done.returncode == 0 and found:
        return found, ""
    last = (done.stderr.strip().splitlines() or [""])[-1]
    ended = f"ended with status {done.returncode}"
    return found, f"{ended}: {last}" if last else ended


def _together(text: str) -> dict[str, Any]:
    """Lines of JSON as one: lists grow, everything else is replaced. Other lines are not the probe's."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        for key, value in json.loads(line).items():
            found[key] = [*found.get(key, ()), *value] if isinstance(value, list) else value
    return found


def _torch(probe: dict[str, Any], failure: str) -> CheckReport:
    if probe.get("torch"):
        cuda = f"CUDA {probe['cuda']}" if probe["cuda"] else "built without CUDA"
        count = len(probe["devices"])
        return _check("torch", "ok", f"{probe['torch']}, {cuda}, {count} GPU{'' if count == 1 else 's'}")
    if _version("torch") is None:
        return _check("torch", "no", "not installed: inspect, verify and plan work, loading does not")
    return _check("torch", "broken", probe.get("error") or failure)


def _backends(probe: dict[str, Any]) -> Iterator[CheckReport]:
    """One line for each backend: the scheme kinds that it runs there, what they gave when they ran, or why it runs
    none."""
    for entry in probe.get("broken", ()):
        yield _check(entry["name"], "broken", entry["error"])
    for entry in probe.get("backends", ()):
        failed = entry.get("failed") or {}
        if failed:
            texts = "; ".join(f"{kind}: {text}" for kind, text in failed.items())
            yield _check(entry["name"], "broken", f"{texts} (on {entry['device']})")
        elif entry["runs"]:
            error = entry.get("error")
            tried = "not run here" if error is None else f"run, largest error {error:.1e}"
            kinds = "every common scheme" if entry.get("every") else ", ".join(entry["runs"])
            of = "experts, " if entry.get("experts") else ""
            yield _check(entry["name"], "ok", f"{of}{tried}: {kinds} on {entry['device']}")
        else:
            yield _check(entry["name"], "no", entry["reason"])


def _hub() -> CheckReport:
    if _version("huggingface_hub") is None:
        return _check("hub", "no", "huggingface_hub is not installed: local checkpoints only")
    from huggingface_hub import constants, get_token

    where = "from HF_TOKEN" if os.environ.get("HF_TOKEN") else "from `hf auth login`"
    token = f"token {where}, not shown" if get_token() else "no token: public repositories only"
    offline = "; offline" if constants.HF_HUB_OFFLINE else ""
    return _check("hub", "ok", f"{constants.ENDPOINT}, {token}{offline}")


def _cache() -> CheckReport:
    if _version("huggingface_hub") is None:
        return _check("cache", "no", "none")
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if existing is None:
        return _check("cache", "warn", f"{folder} cannot be made")
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return _check("cache", "warn", f"{folder}: {error.strerror or error}")
    shown = _short(folder)
    made = "" if folder.exists() else " (not made yet)"
    state: Literal["ok", "warn"] = "ok" if free >= _LOW_SPACE and os.access(existing, os.W_OK) else "warn"
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    return _check("cache", state, f"{shown}{made}, {size(free)} free{writable}")


def _short(folder: Path) -> str:
    """A path that does not give away the user's name in a pasted report."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) and home != Path("/") else str(folder)


def _check(name: str, state: Literal["ok", "warn", "no", "broken"], text: str) -> CheckReport:
    return CheckReport(name=name, state=state, text=text)
