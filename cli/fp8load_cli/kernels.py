"""The kernels in a plan's report: the one place where a question about headers needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fp8load.errors import BackendError, Problem

if TYPE_CHECKING:
    from fp8load.fusion import FusionPlan
    from fp8load.report import PlanReport
    from fp8load.runtime.backend import Device


@dataclass(frozen=True, slots=True)
class Kernels:
    """What is asked: the device, and the backends that are forced, if any."""

    device: Device
    backends: tuple[str, ...]

    @staticmethod
    def of(device: str, backends: Sequence[str]) -> Kernels:
        """The question that the options ask. Raises `UsageError` for no such device, `BackendError` without torch."""
        need_torch("the choice of kernels")
        from fp8load.runtime.devices import parse_device

        return Kernels(parse_device(device), tuple(backends))

    def added_to(self, report: PlanReport, plan: FusionPlan, explain: str | None) -> PlanReport:
        """The report with the choice for this plan, and for the tensor that is explained."""
        from fp8load.runtime.choices import explain_kernel, kernels_of

        found: dict[str, object] = {"kernels": kernels_of(plan, self.device, self.backends)}
        if explain is not None:
            lines = explain_kernel(plan, explain, self.device, self.backends)
            found["explained"] = [*(report.explained or ()), *lines]
        return report.model_copy(update=found)


def need_torch(what: str) -> None:
    """Raise `BackendError` BKD803 where torch cannot be imported: backends say what they need of it."""
    try:
        import torch  # noqa: F401 - whether it can be imported is the question
    except (ImportError, OSError) as error:  # OSError: a library of torch's own that is missing
        raise BackendError(Problem(
            code="BKD803", message=f"{what} needs torch, which cannot be imported", expected="torch >= 2.10",
            got=f"{type(error).__name__}: {error}", hint="`fp8load doctor` says what is installed",
        )) from error  # fmt: skip
