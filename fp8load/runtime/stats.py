"""What a load took, kept with the model that it made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """Bytes and seconds of one load.

    nbytes        that parameters asked for; what is read between them or for alignment does not count
    seconds_read  until every byte was in its parameter: ordering reads, opening files, reading, copying, placing
    seconds       of everything: memory and the choice of backends before that, sealing and preparing layers after it;
                  on a GPU, kernels that prepare a layer may still run
    """

    nbytes: int
    seconds_read: float
    seconds: float
