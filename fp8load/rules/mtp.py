"""Layers for multi-token prediction by their names: under "mtp", or behind the last layer of the decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fp8load.rules.config import number

COUNTS = (
    "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_layers",
)  # fmt: skip
"""Keys of config.json that say how many there are, by the publishers' names."""

_DECODER = re.compile(r"(?:(?:model|language_model|transformer)\.)*layers\.(\d+)\.")
_MTP = re.compile(r"(?:^|\.)(?:mtp|mtp_layers|mtp_block|nextn)(?:\.|$)")


def within_layer(name: str) -> str:
    """A module's name from behind its layer's number: "self_attn.q_proj"; the whole name outside of layers."""
    return re.split(r"(?:^|\.)layers\.\d+\.", name)[-1]


def num_declared(config: Mapping[str, Any]) -> int | None:
    """How many the configuration declares; None where it says nothing."""
    return number(config, *COUNTS)


def key_of_declared(config: Mapping[str, Any]) -> str:
    """The key that `num_declared` reads."""
    return next((key for key in COUNTS if number(config, key) is not None), COUNTS[0])


class MtpNames:
    """Which names belong to such layers, with one configuration's number of layers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._num_layers = number(config, "num_hidden_layers")

    def layer(self, name: str) -> str | None:
        """The layer that a tensor or module belongs to, None for all others."""
        # Most names have neither, and searching a hundred thousand of them for an expression takes long.
        found = _MTP.search(name) if "mtp" in name or "nextn" in name else None
        if found is not None:
            counted = re.match(r"(?:layers\.)?\d+(?=\.|$)", name[found.end() :])
            return name[: found.end()].rstrip(".") + (f".{counted[0]}" if counted else "")
        behind = _DECODER.match(name)
        if behind is None or self._num_layers is None or int(behind[1]) < self._num_layers:
            return None
        return behind[0].rstrip(".")
