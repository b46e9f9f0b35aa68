"""The table of forms: each example under docs/formats is opened, and what it is lowered to is what the page says.

An example is a skeleton that begins with what no code knows: its number in the list of forms that exist, a title, the
tool that writes it, which keys it is recognised by, which modules the page shows, and the test of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs.repaired import rows as repaired
from fp8load.checkpoint import Checkpoint
from fp8load.errors import Fp8LoadError, raise_first
from fp8load.formats.lowered import ModuleInfo
from fp8load.runtime.backend import Backend, Device, Yes
from fp8load.scheme import LinearScheme, Role
from fp8load_kernels.select import provider
from sketch import open_skeleton

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "formats"
DEVICES = {"CPU": Device(kind="cpu"), "sm90": Device(kind="cuda", capability=(9, 0))}
UNSCALED = "--allow-unscaled"


class Example(NamedTuple):
    """A skeleton and what its first lines say. `reported`: codes of what is said of every such checkpoint, and refuses
    nothing."""

    key: str
    text: str
    form: str
    title: str
    tool: str
    detect: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    test: str = ""
    reported: tuple[str, ...] = ()

    def open(self) -> Checkpoint:
        """The checkpoint."""
        checkpoint = open_skeleton(self.text)
        return Checkpoint(checkpoint.source, checkpoint.index, allow_unscaled=UNSCALED in self.detect)


def read(path: Path) -> Example:
    """One file of docs/formats."""
    text = path.read_text()
    said = {}
    for line in text.splitlines():
        key, colon, value = line.removeprefix("# ").partition(": ")
        if line.startswith("# ") and colon:
            said[key] = value
    listed = {key: tuple(said.pop(key, "").split(", ")) for key in ("detect", "modules", "reported") if key in said}
    return Example(key=path.stem, text=text, **listed, **said)


def forms() -> list[Example]:
    """Forms that load, by their number."""
    return _sorted("forms")


def refused() -> list[Example]:
    """Forms that do not."""
    return _sorted("refused")


def _sorted(folder: str) -> list[Example]:
    examples = [read(path) for path in (FOLDER / folder).glob("*.skel")]
    return sorted(examples, key=lambda it: (_number(it.form), it.key))


def _number(form: str) -> int:
    first = form.partition(",")[0]
    return int(first) if first.isdecimal() else 1000


class Row(NamedTuple):
    """What the page says of one module of a form; everything but `form` and `test` comes from the code."""

    form: str
    format: str
    detected: str
    tensors: str
    weight: str
    scale: str
    inputs: str
    runs: str
    tool: str
    test: str


TITLES = ("form", "format", "detected by", "tensors", "weight", "real weight", "input", "runs on", "made by", "test")


def rows(example: Example) -> Iterator[Row]:
    """The rows of a form. Raises `Fp8LoadError` for an example that does not load."""
    checkpoint = example.open()
    raise_first(checkpoint.problems)
    if tuple(problem.code for problem in checkpoint.problems) != example.reported:
        raise AssertionError(f"{example.key}: {checkpoint.problems}")
    checkpoint.plan()
    kv = sorted({meta.name.rpartition(".")[2] for meta in checkpoint.lowered.kv.values()})
    for module in example.modules:
        info = checkpoint.lowered.modules[module]
        if info.scheme is None:
            raise AssertionError(f"{module} of {example.key} has no scheme")
        number = "" if example.form == "tool" else f"{example.form}: "
        yield Row(
            form=f"{number}[{example.title}](forms/{example.key}.skel)",
            format=checkpoint.format.name,
            detected=", ".join(dict.fromkeys(_shown(key) for key in example.detect)),
            tensors=", ".join([*_tensors(checkpoint, info), *(f"`{name}`" for name in kv)]),
            weight=f"{info.scheme.weight.dtype} {info.scheme.weight.granularity}",
            scale=_real(info.scheme),
            inputs=_inputs(info.scheme),
            runs="; ".join(f"{name}: {', '.join(_runs(info, device))}" for name, device in DEVICES.items()),
            tool=example.tool,
            test=f"`{example.test.rpartition('/')[2]}`",
        )


def _shown(key: str) -> str:
    """A key as people know it: without the module of the example."""
    place, colon, rest = key.partition(":")
    if colon and ".0." in rest:
        kind = place.removeprefix("inside ")
        return f"`{kind}`" + (" inside the file" if kind != place else "")
    return f"`{key.replace('quantization_config.', '', 1)}`"


def _tensors(checkpoint: Checkpoint, info: ModuleInfo) -> Iterator[str]:
    """The tensors of a module as they are stored: name and dtype."""
    for meta in info.tensors.values():
        stored = checkpoint.index.tensors[meta.name.partition("[")[0]]
        yield f"`{stored.name.rpartition('.')[2]}` {stored.dtype}{' stacked' if '[' in meta.name else ''}"


def _real(scheme: LinearScheme) -> str:
    """How a code becomes a number: multiplied by its scale, and by or over the second one."""
    if scheme.weight.scale_dtype is None:
        return "code"
    text = f"code * {scheme.weight.scale_dtype}"
    if scheme.second_level is not None:
        text += f" {'/' if scheme.second_level.divides else '*'} {scheme.second_level.dtype}"
    beside = [str(scheme.rounding)] if scheme.rounding != "any" else []
    storage = scheme.storage
    beside += [str(storage.nibble_order)] if storage.nibble_order != "low-first" else []
    beside += [str(storage.scale_layout)] if storage.scale_layout != "row-major" else []
    beside += [f"{storage.offset} added to each code"] if storage.offset else []
    beside += [f"with {transform}" for transform in scheme.transforms]
    return ", ".join([text, *beside])


def _inputs(scheme: LinearScheme) -> str:
    if scheme.input is None:
        return "as it is"
    return f"{scheme.input.dtype} {'static' if scheme.input_static else 'dynamic'} {scheme.input.granularity}"


def _runs(info: ModuleInfo, device: Device) -> list[str]:
    """Backends that take the layer on a device, in the order in which they are tried."""
    if info.scheme is None:
        return []
    rows_, cols = info.tensors[Role.WEIGHT].shape[-2:]
    backends: tuple[Backend, ...] = provider(device)
    scheme = info.scheme.in_memory()
    return [each.name for each in backends if isinstance(each.supports(scheme, (rows_, cols), device), Yes)]


def refusal(example: Example) -> str:
    """What is said of a form that is not read. Raises `AssertionError` where nothing is."""
    try:
        checkpoint = example.open()
        raise_first(checkpoint.problems)
        checkpoint.plan()
    except Fp8LoadError as error:
        problem = error.problem
        expected = f"; expected {problem.expected}" if problem.expected else ""
        return f"{problem.code}: {problem.message}{expected}; got {problem.got}"
    raise AssertionError(f"{example.key} loads")


def table(titles: tuple[str, ...], content: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [titles, tuple("---" for _ in titles), *content]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def tables() -> dict[str, str]:
    """The tables, by the names of their places in the page."""
    supported = [tuple(row) for example in forms() for row in rows(example)]
    others = [(f"[{each.title}](refused/{each.key}.skel)", each.tool, refusal(each)) for each in refused()]
    made = {"forms": table(TITLES, supported), "refused": table(("form", "made by", "what is said"), others)}
    return made | {
        "repairs": table(("code", "rule", "what `--fix` does", "only where it is named, because"), repaired())
    }
