"""Which backend runs a layer or a stack of experts: the first that supports it, or one of those that were asked for.

Names are of two kinds: backends of layers run one matrix, grouped ones a stack of experts. A stack also runs one expert
after the other, by a backend of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, NoReturn, TypeVar

from fp8load.errors import BackendError, Problem, UsageError
from fp8load.runtime.backend import Backend, Device, Refusal, Yes, backends_for, backends_named
from fp8load.runtime.grouped import GroupedBackend, OneByOne, grouped_for, grouped_named
from fp8load.scheme import LinearScheme

REFERENCE = "reference"
"""The backend that runs experts, one after the other, where no grouped one does and none is asked for."""

Asked = str | Sequence[str] | None
"""What `backend=` takes: a name, several, or None to choose automatically."""

Chosen = TypeVar("Chosen", bound=Backend | GroupedBackend)


class Choice(NamedTuple, Generic[Chosen]):
    """The backend that runs a layer or a stack, and why: one line for each backend that was asked before it, and one
    for it; the refusals once more, apart."""

    backend: Chosen
    why: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()


def names_of(asked: Asked) -> tuple[str, ...]:
    """The names that were asked for, in that order, each once; none where the choice is automatic."""
    return tuple(dict.fromkeys((asked,) if isinstance(asked, str) else asked or ()))


def known_names(asked: Asked, device: Device, *, layer: str = "") -> tuple[str, ...]:
    """`names_of`, once each is known to be that of a backend. Raises `UsageError` BKD800, which lists all of them."""
    names = names_of(asked)
    grouped = [backend.name for backend in grouped_for(device)]
    known = [*(backend.name for backend in backends_for(device)), *grouped]
    for name in names:
        if name not in known:
            raise UsageError(Problem(
                code="BKD800", message=f"there is no backend {name!r}", module=layer, got=name,
                expected="one of " + ", ".join(dict.fromkeys(known)),
                hint=f"for stacks of experts only: {', '.join(grouped) or 'none of these'}",
            ))  # fmt: skip
    return names


def choose(
    scheme: LinearScheme, shape_NK: tuple[int, int], device: Device, *, forced: Asked = None, layer: str = ""
) -> Choice[Backend]:
    """The first backend that supports a layer; with names, the first of these.

    Raises `UsageError` BKD800 for a name that no backend has, `BackendError` BKD801 where those that were asked for, or
    all, refuse, and where a layer is asked to run by grouped backends alone.
    """
    names = known_names(forced, device, layer=layer)
    candidates = backends_named(names, device) if names else backends_for(device)
    refused: list[Refusal] = []
    found = _first(candidates, scheme, shape_NK, device, refused, forced=bool(names))
    if found is None:
        grouped = [name for name in names if name not in [backend.name for backend in candidates]]
        refused += [Refusal(name, "runs stacks of experts, and this is one layer") for name in grouped]
        refuse(names, refused, f"{scheme}, {list(shape_NK)}, on {device}", layer)
    return found


def choose_grouped(
    scheme: LinearScheme, shape_ENK: tuple[int, int, int], device: Device, *, forced: Asked = None, layer: str = ""
) -> Choice[GroupedBackend]:
    """The first grouped backend that supports a stack, else one expert after the other.

    Then each runs as a layer of its scheme does on CUDA, elsewhere by `reference`. With names: the first grouped one of
    these, else the first of layers. Raises as `choose`.
    """
    names = known_names(forced, device, layer=layer)
    candidates = grouped_named(names, device) if names else grouped_for(device)
    refused: list[Refusal] = []
    found = _first(candidates, scheme, shape_ENK, device, refused, forced=bool(names))
    if found is not None:
        return found
    singles = names or (() if device.kind == "cuda" else (REFERENCE,))
    layers = backends_named(singles, device) if singles else backends_for(device)
    one = _first(layers, scheme, shape_ENK[1:], device, refused, forced=bool(names))
    if one is None:
        refuse(names, refused, f"{scheme}, {list(shape_ENK)}, on {device}", layer)
    said = f"{one.backend.name}: {'forced' if names else 'supports it'}, one expert after the other"
    return Choice(OneByOne(one.backend), (*one.why[:-1], said), one.refused)


def _first(
    candidates: Iterable[Chosen],
    scheme: LinearScheme,
    shape: tuple[int, ...],
    device: Device,
    refused: list[Refusal],
    *,
    forced: bool,
) -> Choice[Chosen] | None:
    """The choice of the first that supports it; `refused` grows by those before it."""
    for backend in candidates:
        verdict = backend.supports(scheme, shape, device)  # type: ignore[arg-type]  # the shape of its kind
        if isinstance(verdict, Yes):
            how = "forced" if forced else "supports it"
            note = f"; {verdict.note}" if verdict.note else ""
            why = [f"{name}: {reason}" for name, reason in refused]
            return Choice(backend, (*why, f"{backend.name}: {how}{note}"), tuple(refused))
        refused.append(Refusal(backend.name, verdict.reason))
    return None


def refuse(names: Sequence[str], refused: Sequence[Refusal], got: str, layer: str) -> NoReturn:
    """Raise `BackendError` BKD801: nobody runs the layer, and why."""
    wanted = " or ".join(names)
    raise BackendError(Problem(
        code="BKD801", module=layer, got=got,
        message=f"{wanted} was requested and cannot run here" if names else "no backend can run this layer",
        expected="; ".join(f"{name}: {reason}" for name, reason in refused) or "a package that announces backends",
        hint="leave backend out to choose automatically" if names else 'backend="reference" computes in float32',
    ))  # fmt: skip
