"""`make bench`: speed and size of what the project promises, each beside its goal or its floor.

    python tests/benchmarks/run.py [--folder DIR] [--repeats N] [--json FILE]

Every figure is a median over fresh processes. Absolute times of a CPU mean nothing elsewhere; ratios within a run do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import giants
import loading

COMMAND = [sys.executable, "-m", "fp8load"]
IMPORTS = "import sys; assert 'torch' not in sys.modules"

PROGRAM = f"""
import sys, io
from fp8load_cli.app import main
code = None
try:
    sys.stdout = io.StringIO()
    main()
except SystemExit as stop:
    code = stop.code
finally:
    sys.stdout = sys.__stdout__
assert not code, code
{IMPORTS}
"""
VERIFIED = ("deepseek-v3", "glm-5-fp8")
PLAN = f"""
import json, sys, time
import fp8load
times = [time.perf_counter()]
checkpoint = fp8load.open(sys.argv[1])
times.append(time.perf_counter())
checkpoint.lowered
times.append(time.perf_counter())
plan = checkpoint.plan()
times.append(time.perf_counter())
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
{IMPORTS}
print(json.dumps({{
    "open": times[1] - times[0], "lower": times[2] - times[1], "plan": times[3] - times[2],
    "seconds": times[3] - times[1], "peak_mib": int(peak.split()[1]) / 1024, "family": plan.arch or "",
    "files": len(checkpoint.index.files), "tensors": len(checkpoint.index.tensors), "elements": plan.num_elements,
}}))
"""


def compiled(folder: Path) -> None:
    """Let the processes that are measured find compiled files, as those of an installed package do."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")


def timed(command: list[str], repeats: int) -> float:
    """Median wall time of a command, seconds, after one run that warms caches."""
    found = []
    for i in range(repeats + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if i:
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def planned(folder: Path, repeats: int) -> dict[str, Any]:
    """Medians in a fresh process: opening, lowering, plan and proof, in seconds, and its peak memory."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", PLAN, str(folder)], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    last = runs[-1]
    return {key: value if isinstance(value, str | int) else statistics.median(run[key] for run in runs)
            for key, value in last.items()}  # fmt: skip


def loaded(loads: dict[str, dict[str, float]]) -> list[tuple[str, str, str]]:
    """Rows about loading, relative to the floor."""
    rate = {name: run["nbytes"] / run["seconds"] / 1e9 for name, run in loads.items()}
    ratio = rate["floor"] / rate["fp8load"]
    return [
        ("floor: threaded read into fresh huge pages", f"{rate['floor']:.2f} GB/s", "1"),
        ("fp8load.load of the same bytes", f"{rate['fp8load']:.2f} GB/s", f"floor / this = {ratio:.2f} <= 1.3"),
        ("safetensors load_file and copy", f"{rate['safetensors + copy']:.2f} GB/s", ""),
        ("extra memory of fp8load.load", f"{loads['fp8load']['extra_mib']:.0f} MiB", "<= 64 MiB"),
    ]


def report(rows: list[tuple[str, str, str]]) -> None:
    """Columns: what, measured, goal."""
    width = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width[i]) for i, cell in enumerate(row)).rstrip())


def machine() -> dict[str, str]:
    """What the figures hold for."""
    packages = {name: version(name) for name in ("torch", "safetensors", "pydantic", "typer", "numpy")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        **packages,
    }


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fp8load-bench")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--headers", action="store_true", help="only what needs no data: inspect, plans and proofs")
    options = parser.parse_args()
    compiled(options.folder)
    large = giants.make(options.folder, "deepseek-v3")
    help_s = timed([*COMMAND, "--help"], options.repeats)
    inspect_s = timed([sys.executable, "-c", PROGRAM, "inspect", str(large)], options.repeats)
    verify_s = {
        name: timed([sys.executable, "-c", PROGRAM, "verify", "--level", "headers",
                     str(giants.make(options.folder, name))], options.repeats)
        for name in VERIFIED
    }  # fmt: skip
    mixtures = {name: planned(giants.make(options.folder, name), options.repeats) for name in giants.GIANTS}
    plan = mixtures["deepseek-v3"]
    rows = [
        ("what", "measured", "goal"),
        ("fp8load --help", f"{help_s:.2f} s", "<= 0.2 s"),
        ("inspect, DeepSeek-V3-sized (163 shards, 91,991 tensors)", f"{inspect_s:.2f} s", "<= 1.0 s, no torch"),
        *(
            (f"verify --level headers of {name}, all rules", f"{seconds:.2f} s", "<= 3 s, no torch")
            for name, seconds in verify_s.items()
        ),
        ("plan and proof of it", f"{plan['seconds']:.2f} s", "<= 2 s"),
        ("peak memory of that process", f"{plan['peak_mib']:.0f} MiB", "<= 400 MiB"),
        *(
            (
                f"{name}, {run['tensors']:,} tensors: open, lower, plan and proof",
                f"{run['open']:.2f} + {run['lower']:.2f} + {run['plan']:.2f} s, {run['peak_mib']:.0f} MiB",
                f"family {run['family'] or 'not known'}, {run['files']} files",
            )
            for name, run in mixtures.items()
        ),
    ]
    figures: dict[str, Any] = {"help_s": help_s, "inspect_s": inspect_s, "verify_s": verify_s, "plans": mixtures}
    if not options.headers:
        figures["load"] = loading.measure(loading.make(options.folder / "llama-2.2gb"), options.repeats)
        rows += loaded(figures["load"])
    print(" ".join(f"{key} {value}" for key, value in machine().items()))
    report(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
