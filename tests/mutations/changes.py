"""The changes: each takes a clean checkpoint and a random number generator, and gives a faulty one, or None where it
does not apply. The doc string of each is its row in the table of the docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np

from fp8load.scheme import Role
from mutations.copies import Copy, numbers, packed
from oracle.dequantize import ITEM_SIZE, Stored
from oracle.rewrite import FILE, file_bytes

Rng = np.random.Generator
Change = Callable[[Copy, Rng], Copy | None]


def pick(names: list[str], rng: Rng) -> str | None:
    """One of some names, or None where there are none."""
    return names[int(rng.integers(len(names)))] if names else None


def dropped(role: Role) -> Change:
    """A change that removes one tensor of a role."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        name = pick(copy.of_role(role), rng)
        return None if name is None else copy.having(**{name: None})

    return change


def drop_norm(copy: Copy, rng: Rng) -> Copy | None:
    """A norm or the embedding is gone."""
    name = pick(copy.plain(), rng)
    return None if name is None else copy.having(**{name: None})


def renamed(role: Role, suffix: str) -> Change:
    """A change that gives one tensor of a role another last component."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        name = pick(copy.of_role(role), rng)
        if name is None:
            return None
        return copy.having(**{name: None, f"{name.rpartition('.')[0]}.{suffix}": copy.stored[name]})

    return change


def rescaled(role: Role, by: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A change of all numbers of one scale of a role."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        names = [name for name in copy.of_role(role) if copy.stored[name].dtype != "I8"]
        name = pick(names, rng)
        if name is None:
            return None
        tensor = copy.stored[name]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            made = packed(tensor.dtype, by(numbers(tensor)))
        return None if made.data == tensor.data else copy.having(**{name: made})

    return change


def first_is(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """The first element replaced."""

    def by(values: np.ndarray) -> np.ndarray:
        flat = values.astype(np.float32).reshape(-1).copy()
        flat[0] = value
        return flat.reshape(values.shape)

    return by


def swapped(role: Role) -> Change:
    """A change that swaps two tensors of a role that have one dtype and shape, and differ."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        stored = {name: copy.stored[name] for name in copy.of_role(role)}
        pairs = [(one, two) for one, two in combinations(stored, 2)
                 if stored[one][:2] == stored[two][:2] and stored[one].data != stored[two].data]  # fmt: skip
        if not pairs:
            return None
        one, two = pairs[int(rng.integers(len(pairs)))]
        return copy.having(**{one: copy.stored[two], two: copy.stored[one]})

    return change


def stale_scale(copy: Copy, rng: Rng) -> Copy | None:
    """One weight scale is of an earlier version, of a third of the size and with its outliers elsewhere."""
    name = pick(copy.of_role(Role.WEIGHT_SCALE), rng)
    if name is None:
        return None
    values = numbers(copy.stored[name])
    shuffled = rng.permutation(values.reshape(-1)).reshape(values.shape)
    factor = 4 if copy.stored[name].dtype in ("U8", "F8_E8M0") else 3
    return copy.having(**{name: packed(copy.stored[name].dtype, shuffled / factor)})


def flattened(role: Role) -> Change:
    """A change of shape alone: [a, b] becomes [a * b]."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        names = [name for name in copy.of_role(role) if len(copy.stored[name].shape) == 2
                 and min(copy.stored[name].shape) > 1]  # fmt: skip
        name = pick(names, rng)
        if name is None:
            return None
        tensor = copy.stored[name]
        return copy.having(**{name: tensor._replace(shape=(tensor.shape[0] * tensor.shape[1],))})

    return change


def transposed(role: Role) -> Change:
    """A change that stores one matrix of a role columns first, shape and bytes."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        names = [name for name in copy.of_role(role) if len(copy.stored[name].shape) == 2
                 and copy.stored[name].shape[0] != copy.stored[name].shape[1]]  # fmt: skip
        name = pick(names, rng)
        if name is None:
            return None
        dtype, (rows, cols), data = copy.stored[name]
        items = np.frombuffer(data, np.uint8).reshape(rows, cols, ITEM_SIZE[dtype])
        return copy.having(**{name: Stored(dtype, (cols, rows), items.transpose(1, 0, 2).tobytes())})

    return change


def retyped_scale(copy: Copy, rng: Rng) -> Copy | None:
    """One scale is stored in another float dtype than its siblings."""
    other = {"F32": "BF16", "BF16": "F32", "F16": "F32"}
    names = [name for name in copy.of_role(Role.WEIGHT_SCALE) if copy.stored[name].dtype in other]
    name = pick(names, rng)
    if name is None or len(names) < 2:
        return None
    tensor = copy.stored[name]
    return copy.having(**{name: packed(other[tensor.dtype], numbers(tensor))})


def relabelled_weight(copy: Copy, rng: Rng) -> Copy | None:
    """A weight's header says F8_E5M2; its bytes are E4M3."""
    name = pick([name for name in copy.of_role(Role.WEIGHT) if copy.stored[name].dtype == "F8_E4M3"], rng)
    return None if name is None else copy.having(**{name: copy.stored[name]._replace(dtype="F8_E5M2")})


def dequantized_weight(copy: Copy, rng: Rng) -> Copy | None:
    """A weight was dequantized to BF16, its scale and the configuration stayed."""
    name = pick([name for name in copy.of_role(Role.WEIGHT) if copy.stored[name].dtype == "F8_E4M3"], rng)
    return None if name is None else copy.having(**{name: packed("BF16", numbers(copy.stored[name]))})


def exponents_as_numbers(copy: Copy, rng: Rng) -> Copy | None:
    """Exponent bytes of a scale were converted to floats as numbers: 120.0 in the place of 2 ** -7."""
    names = [name for name in copy.of_role(Role.WEIGHT_SCALE) if copy.stored[name].dtype == "U8"]
    name = pick(names, rng)
    if name is None:
        return None
    codes = np.frombuffer(copy.stored[name].data, np.uint8).astype(np.float32)
    return copy.having(**{name: packed("F32", codes.reshape(copy.stored[name].shape))})


def filled(byte: int, *, whole: bool) -> Change:
    """A change that fills a weight, or its first element, with one byte."""

    def change(copy: Copy, rng: Rng) -> Copy | None:
        names = [name for name in copy.of_role(Role.WEIGHT) if whole or copy.stored[name].dtype == "F8_E4M3"]
        name = pick(names, rng)
        if name is None:
            return None
        tensor = copy.stored[name]
        size = len(tensor.data)
        data = bytes([byte]) * size if whole else bytes([byte]) + tensor.data[1:]
        return copy.having(**{name: tensor._replace(data=data)})

    return change


def stored_twice(copy: Copy, rng: Rng) -> Copy | None:
    """A second file holds a tensor once more, with other bytes, and no index lists it."""
    name = pick(copy.of_role(Role.WEIGHT), rng)
    if name is None:
        return None
    other = copy.stored[name]._replace(data=bytes(len(copy.stored[name].data)))
    return replace(copy, extra={"more.safetensors": file_bytes({name: other})})


def two_copies(copy: Copy, rng: Rng) -> Copy | None:
    """All tensors lie in the folder a second time, in a file that no index lists."""
    del rng
    return replace(copy, extra={"consolidated.safetensors": file_bytes(copy.stored)})


def truncated(copy: Copy, rng: Rng) -> Copy | None:
    """The last kilobyte of the file is missing."""
    del rng
    return replace(copy, cut=1024)


def pointer(copy: Copy, rng: Rng) -> Copy | None:
    """The file is a git-LFS pointer."""
    del rng
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
    return replace(copy, extra={FILE: text.encode()})


def listed_and_absent(copy: Copy, rng: Rng) -> Copy | None:
    """The index lists a tensor that no file holds."""
    del rng
    return replace(copy, index=(*copy.stored, "model.layers.0.mlp.stranger.weight"))


def stored_and_unlisted(copy: Copy, rng: Rng) -> Copy | None:
    """A weight is stored and the index does not list it."""
    name = pick(copy.of_role(Role.WEIGHT), rng)
    return None if name is None else replace(copy, index=tuple(each for each in copy.stored if each != name))
