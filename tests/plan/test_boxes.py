"""Boxes: exact tilings are accepted, everything else is named."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fp8load.boxes import Box, overlap, rows, tiling_fault, whole

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape cut in two again and again: every partition of this kind is a tiling."""
    shape = draw(shapes)
    boxes = [whole(shape)]
    for _ in range(draw(st.integers(0, 6))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(box.lo[axis], box.hi[axis]))
        hi = (*box.hi[:axis], at, *box.hi[axis + 1 :])
        lo = (*box.lo[:axis], at, *box.lo[axis + 1 :])
        boxes += [Box(box.lo, hi), Box(lo, box.hi)]
    return shape, draw(st.permutations(boxes))


@given(tilings())
def test_a_partition_tiles(case: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = case

    assert tiling_fault(shape, boxes) is None


@given(tilings(), st.data())
def test_a_partition_without_one_box_leaves_a_hole(
    case: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = case
    gone = boxes.pop(data.draw(st.integers(0, len(boxes) - 1)))
    assume(gone.num_elements)

    fault = tiling_fault(shape, boxes)

    assert fault is not None
    assert "no box" in fault


@given(tilings(), st.data())
def test_a_box_that_is_there_twice_overlaps(case: tuple[tuple[int, ...], list[Box]], data: st.DataObject) -> None:
    shape, boxes = case
    twice = data.draw(st.sampled_from(boxes))
    assume(twice.num_elements)

    fault = tiling_fault(shape, [*boxes, twice])

    assert fault is not None
    assert "overlap" in fault


@given(tilings(), st.data())
def test_a_box_moved_by_one_is_found(case: tuple[tuple[int, ...], list[Box]], data: st.DataObject) -> None:
    shape, boxes = case
    i = data.draw(st.integers(0, len(boxes) - 1))
    assume(boxes[i].num_elements)
    axis = data.draw(st.integers(0, len(shape) - 1))
    boxes[i] = boxes[i].shift(tuple(int(a == axis) for a in range(len(shape))))

    assert tiling_fault(shape, boxes) is not None


def test_overlap_names_both_boxes() -> None:
    assert overlap([rows((4, 2), 0, 2), rows((4, 2), 2, 4), rows((4, 2), 1, 2)]) == (0, 2)


def test_a_scalar_is_one_element_and_is_tiled_by_its_own_box() -> None:
    assert whole(()).num_elements == 1
    assert tiling_fault((), [whole(())]) is None
    assert tiling_fault((), []) is not None
    assert tiling_fault((), [whole(()), whole(())]) is not None


@pytest.mark.parametrize("box", [Box((0,), (5,)), Box((-1,), (2,)), Box((3,), (2,)), Box((0, 0), (1, 1))])
def test_a_box_outside_the_shape_is_refused(box: Box) -> None:
    fault = tiling_fault((4,), [box])

    assert fault is not None
    assert "outside" in fault
