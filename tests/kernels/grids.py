"""E2M1, E2M3, E3M2, E4M3, E5M2 and their rounding in numpy float64: every code's value, the nearest found by search."""

from __future__ import annotations

import numpy as np

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array(
    [m / 8 * 2.0**-6 for m in range(8)] + [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
)
E2M3 = np.array([m / 8 for m in range(8)] + [(1 + m / 8) * 2.0 ** (e - 1) for e in range(1, 4) for m in range(8)])
E3M2 = np.array(
    [m / 4 * 2.0**-2 for m in range(4)] + [(1 + m / 4) * 2.0 ** (e - 3) for e in range(1, 8) for m in range(4)]
)
E5M2 = np.array(
    [m / 4 * 2.0**-14 for m in range(4)] + [(1 + m / 4) * 2.0 ** (e - 15) for e in range(1, 31) for m in range(4)]
)


def nearest(x: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The value of `grid` nearest to x, by magnitude; of two as near the one with the even code; with x's sign."""
    magnitude = np.minimum(np.abs(x.astype(np.float64)), grid[-1])
    above = np.clip(np.searchsorted(grid, magnitude), 1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    to_low, to_high = magnitude - low, high - magnitude  # exact: both are within a factor of two, or low is 0
    takes_high = (to_high < to_low) | ((to_high == to_low) & (above % 2 == 0))
    return np.copysign(np.where(takes_high, high, low), x)


def group_amax(x_MK: np.ndarray, cols: int) -> np.ndarray:
    """Largest magnitude of each group, repeated for each element: [M, K]."""
    starts = range(0, x_MK.shape[1], cols)
    return np.concatenate(
        [np.repeat(np.abs(x_MK[:, i : i + cols]).max(1, keepdims=True), len(x_MK[0, i : i + cols]), 1) for i in starts],
        1,
    )


def rounds_up(rule: str, fraction: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Whether a group whose amax is `fraction` (1 to 2) times a power of two takes the exponent of the next one."""
    largest = grid[-1] / 2.0 ** np.floor(np.log2(grid[-1]))
    bits = {6: 1, 28: 2, 7.5: 3, 448: 3, 57344: 2}[grid[-1]]
    return {
        "floor": np.zeros_like(fraction, dtype=bool),
        "element": fraction >= 2 - 2.0 ** -(bits + 1),
        "one-bit": fraction >= 1.75,
        "ceil": fraction > 1,
        "fit": fraction > largest,
    }[rule]


def mx(x_MK: np.ndarray, grid: np.ndarray, cols: int = 32, rule: str = "floor") -> np.ndarray:
    """OCP MX, section 6.3, dequantized, float64; or with another rule of `rounds_up` for the shared exponent."""
    amax = group_amax(x_MK.astype(np.float64), cols)
    emax = np.floor(np.log2(grid[-1]))
    exponent = np.array([int(a).bit_length() - 1 for a in (amax * 2.0**200).ravel()]).reshape(amax.shape) - 200.0
    exponent = exponent + rounds_up(rule, amax / np.exp2(exponent), grid) - emax
    scale = np.exp2(np.clip(exponent, -127, 127))
    return nearest(x_MK / scale, grid) * scale


def nvfp4(x_MK: np.ndarray, multiplier: np.float32, cols: int = 16) -> np.ndarray:
    """NVFP4 with every division and product of scales in float32 and the rest in float64, dequantized."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        block = nearest(group_amax(x_MK, cols) / np.float32(6) / multiplier, E4M3).astype(np.float32)
        scale = block * multiplier
        ratio = np.where(scale == 0, np.float32(0), x_MK / scale)
    assert ratio.dtype == scale.dtype == np.float32
    return (nearest(ratio, E2M1).astype(np.float32) * scale).astype(np.float64)
