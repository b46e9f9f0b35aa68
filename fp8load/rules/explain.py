"""Which findings follow from another: a lost shard makes scales missing, a lost weight leaves its scale alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from fp8load.errors import Problem, Severity
from fp8load.index.index import Index
from fp8load.rules.families import family
from fp8load.rules.findings import Group, module_of

_CONFIG = ("F8L110", "F8L107", "F8L101")
"""Without a configuration that can be read, scales are tensors that nobody asked for."""

_OF_A_TENSOR = {
    "F8L501": ("F8L404", "F8L605"),
    "F8L105": ("F8L605", "F8L101"),
    "F8L204": ("F8L106",),
    "F8L306": ("F8L302", "F8L303"),
}
"""What follows for a tensor from another fault of the same tensor: a kernel's layout has another shape and dtype, bytes
that no configuration explains belong to no scheme, and without any input scale each is missing."""

_OF_A_SIZE = ("F8L105", "F8L703", "F8L706", "F8L705")
"""What makes the scale of a module another number than its weight has: its size then is out of proportion."""

_OUT_OF_PROPORTION = {
    "F8L805": _OF_A_SIZE,
    "F8L806": ("F8L701", "F8L702", "F8L801", *_OF_A_SIZE),
    "F8L807": (*_OF_A_SIZE, "F8L805"),
}
_SIZED = frozenset[str]().union(*_OUT_OF_PROPORTION.values())

_MARKER = "F8C001"
_OF_THE_MARKER = frozenset({"F8L101", "F8L105", "F8L201", "F8L203"})
"""What is said of the layers of a single file whose marker is missing or of another dialect than its scales."""


_CAUSES = frozenset({_MARKER}.union(*_OF_A_TENSOR.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Causes:
    """What is known to be gone.

    lost       tensor -> the fault of a file that took it
    absent     tensor that the family needs and nothing stores -> F8L109
    everything the fault of the only file, which took every tensor
    no_config  why there is no configuration
    faulty     code -> the tensors that it speaks of
    sized      code that makes a weight another one -> the modules that it speaks of
    holders    without a configuration: what holds a tensor that may be a packed weight, or belong to one
    """

    lost: Mapping[str, str]
    absent: Mapping[str, str]
    everything: str | None
    no_config: str | None
    faulty: Mapping[str, frozenset[str]]
    sized: Mapping[str, frozenset[str]]
    holders: frozenset[str]
    stored: Callable[[str], bool]
    are_a_pair: Callable[[str, str], bool]

    def of(self, problem: Problem) -> str | None:
        """The code that explains a problem, None where none does."""
        if problem.code.startswith("F8L0"):
            return None
        if problem.tensor in self.lost:
            return self.lost[problem.tensor]
        if self.everything and not self.stored(problem.tensor):
            return self.everything
        if problem.code == "F8L202":
            weight = f"{module_of(problem)}.weight"
            return self.lost.get(weight) or self.absent.get(weight)
        if problem.code == "F8L109" and self._is_of_no_format(problem):
            return self.no_config
        bias = f"{problem.tensor.rpartition('.')[0]}.bias"
        if problem.code == "F8L306" and bias in self.absent:  # a member with a bias is not as one without
            return self.absent[bias]
        if problem.code == "F8L101" and self.no_config == "F8L110":
            return self.no_config
        if problem.code in _OUT_OF_PROPORTION:
            return self._size(module_of(problem), problem.code)
        if problem.code in _OF_THE_MARKER and _MARKER in self.faulty:
            return _MARKER
        codes = _OF_A_TENSOR.get(problem.code, ())
        return next((code for code in codes if problem.tensor in self.faulty.get(code, ())), None)

    def _is_of_no_format(self, problem: Problem) -> bool:
        """Whether only a configuration would tell what a tensor is: a scale, what stands in the place of a weight or
        below one (GPTQ's qweight, quanto's weight._data), or the weight that this would be."""
        above, _, last = problem.tensor.rpartition(".")
        if "scale" in last:
            return True
        if last == "weight":
            return problem.tensor in self.holders or (not self.stored(problem.tensor) and above in self.holders)
        while above:
            if f"{above}.weight" in self.absent or (above.endswith(".weight") and self.stored(above)):
                return above in self.holders
            above = above.rpartition(".")[0]
        return False

    def _size(self, module: str, code: str) -> str | None:
        """What makes a module's weight another one, or another size than that of the one module that it was compared
        with."""
        for cause in _OUT_OF_PROPORTION[code]:
            modules = self.sized.get(cause, frozenset())
            if module in modules or (code == "F8L807" and any(self.are_a_pair(module, other) for other in modules)):
                return cause
        return None


def explanations(groups: list[Group], index: Index) -> list[str | None]:
    """For each group the code of the error that explains all of it."""
    causes = _causes(groups, index)
    found: list[str | None] = []
    for group in groups:
        codes = {causes.of(problem) for problem in group.problems}
        found.append(min(code for code in codes if code) if codes and None not in codes else None)
    return found


def _causes(groups: list[Group], index: Index) -> _Causes:
    problems = [problem for group in groups if group.severity is Severity.ERROR for problem in group.problems]
    files = [problem for problem in problems if problem.code.startswith("F8L0")]
    unread = {problem.file: problem.code for problem in files if problem.file not in index.files}
    lost = {name: unread[file] for name, file in (index.declared or {}).items() if file in unread}
    lost.update((problem.tensor, problem.code) for problem in files if problem.code == "F8L004")
    codes = {problem.code for problem in problems}
    faulty = {code: frozenset(p.tensor for p in problems if p.code == code) for code in codes & _CAUSES}
    return _Causes(
        lost=lost,
        absent={p.tensor: p.code for p in problems if p.code == "F8L109" and p.tensor not in index.tensors},
        everything=next(iter(unread.values()), None) if index.declared is None else None,
        no_config=next((code for code in _CONFIG if code in codes), None),
        faulty=faulty,
        sized={
            group.code: frozenset(map(module_of, group.problems))
            for group in groups
            if group.code in _SIZED and group.severity is not Severity.INFO
        },
        holders=_holders(index) if any(code in codes for code in _CONFIG) else frozenset(),
        stored=index.tensors.__contains__,
        are_a_pair=_Pairs(index),
    )


def _holders(index: Index) -> frozenset[str]:
    """Everything above tensors that are no scale, bias or weight by their names: those are no packed weight."""
    found: set[str] = set()
    for name in index.tensors:
        above, _, last = name.rpartition(".")
        if "scale" not in last and last not in ("weight", "bias"):
            while above and above not in found:
                found.add(above)
                above = above.rpartition(".")[0]
    return frozenset(found)


class _Pairs:
    """Whether two modules are all that there is of a kind: of such a pair each looks out of proportion."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @cached_property
    def _sizes(self) -> Counter[str]:
        modules = {name.rpartition(".")[0] for name in self._index.tensors}
        return Counter(map(family, modules))

    def __call__(self, module: str, other: str) -> bool:
        return family(module) == family(other) and self._sizes[family(module)] == 2
