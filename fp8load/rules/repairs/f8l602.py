"""F8L602: fnuz weights are converted to the dtype that every reader of FP8 knows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from fp8load.dtypes import NAN_BYTES, DType, decode_table
from fp8load.errors import Problem
from fp8load.rules.base import Context, Repair
from fp8load.rules.repairs.places import configuration
from fp8load.values.encode import encoded
from fp8load.writing.actions import Convert, Edit

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


def actions(context: Context, problem: Problem) -> Iterator[Convert | Edit]:
    """Number by number, and scales stay. E5M2 reaches further than E4M3: for that the layer has to be quantized again,
    from what it was before."""
    meta = context.checkpoint.index.tensors.get(problem.tensor)
    if meta is None or meta.dtype is not DType.F8_E4M3FNUZ:
        return
    yield Convert(meta, DType.F8_E4M3, _converted, "the same numbers in F8_E4M3, but for the smallest", "same")
    found = configuration(context)
    if found is not None and "fnuz" in str(found[2].get("fmt")):
        file, keys, _ = found
        yield Edit(file, (*keys, "fmt"), "set", "e4m3")


def _converted(data: bytes) -> bytes:
    import numpy as np

    return _codes().take(np.frombuffer(data, np.uint8)).tobytes()


@cache
def _codes() -> NDArray[uint8]:
    """Each code of the one dtype -> the nearest of the other."""
    import numpy as np

    values = decode_table(DType.F8_E4M3FNUZ)
    nan = NAN_BYTES[DType.F8_E4M3][0]
    return np.where(np.isnan(values), nan, encoded(DType.F8_E4M3, np.nan_to_num(values))).astype(np.uint8)


REPAIR = Repair(
    title="converts fnuz weights to F8_E4M3", actions=actions,
    only_if="lossy: numbers next to zero are rounded, and hardware that computes in fnuz has to convert them back",
)  # fmt: skip
