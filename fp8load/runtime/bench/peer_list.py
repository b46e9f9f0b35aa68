"""The peers, in the order in which tables show them."""

from __future__ import annotations

from fp8load.runtime.bench.peers.base import Peer
from fp8load.runtime.bench.peers.fast import FastSafetensors
from fp8load.runtime.bench.peers.load_file import LoadFile
from fp8load.runtime.bench.peers.runai import RunaiStreamer
from fp8load.runtime.bench.peers.safe_open import SafeOpen


def all_peers() -> tuple[Peer, ...]:
    """All of them, whether or not they are installed."""
    return LoadFile(), SafeOpen(), FastSafetensors(), RunaiStreamer()
