"""Which part of a report is wanted: tensors, modules by glob."""

from __future__ import annotations

from fp8load.errors import Problem, UsageError
from fp8load.index.index import Index
from fp8load.patterns import glob_match
from fp8load.report import InspectReport, TensorReport


def checked_glob(pattern: str) -> str:
    """The pattern, if it is one. Raises `UsageError`."""
    try:
        glob_match(pattern, "")
    except ValueError as error:
        raise UsageError(Problem(
            code="USE010", message="--module is not a pattern", expected="'model.layers.*.mlp.**'", got=str(error)
        )) from error  # fmt: skip
    return pattern


def with_tensors(report: InspectReport, index: Index) -> InspectReport:
    """The report with every tensor of the index."""
    tensors = [
        TensorReport(name=m.name, dtype=m.dtype, shape=list(m.shape), nbytes=m.nbytes, file=m.file, begin=m.begin)
        for m in index.tensors.values()
    ]
    return report.model_copy(update={"tensors": tensors})


def within(report: InspectReport, pattern: str) -> InspectReport:
    """The report with the modules, and their tensors, that match. A fused layer matches by its own name or a part's."""
    checked_glob(pattern)
    modules = [
        module
        for module in report.modules
        if glob_match(pattern, module.name) or any(glob_match(pattern, slot.module) for slot in module.slots)
    ]
    tensors = report.tensors
    if tensors is not None:
        tensors = [tensor for tensor in tensors if matches(pattern, tensor.name)]
    return report.model_copy(update={"modules": modules, "tensors": tensors})


def matches(pattern: str, tensor: str) -> bool:
    """Whether a tensor's own name or its module's matches."""
    return glob_match(pattern, tensor) or glob_match(pattern, tensor.rpartition(".")[0])
