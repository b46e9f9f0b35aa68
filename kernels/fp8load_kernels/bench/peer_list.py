"""The peers, in the order in which tables show them."""

from __future__ import annotations

from fp8load_kernels.bench.peers.base import Peer
from fp8load_kernels.bench.peers.bf16 import BF16
from fp8load_kernels.bench.peers.deepgemm import DeepGemmBlocks
from fp8load_kernels.bench.peers.torch_blocks import TorchBlocks
from fp8load_kernels.bench.peers.torch_rows import TorchRows
from fp8load_kernels.bench.peers.vllm_blocks import VllmBlocks
from fp8load_kernels.bench.peers.vllm_rows import VllmRows

BASELINE = BF16.name


def all_peers() -> tuple[Peer, ...]:
    """All of them, whether or not they are installed."""
    return BF16(), TorchRows(), TorchBlocks(), DeepGemmBlocks(), VllmRows(), VllmBlocks()
