"""Patterns: expand and fold are inverses, globs match whole components, names are safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counted import calls
from fp8load.patterns import escape, expand, fold, glob_match, natural_key

component = st.one_of(
    st.integers(0, 40).map(str),
    st.sampled_from(["model", "layers", "gate_proj", "up_proj", "q_a_proj", "q_b_proj", "weight", "weight_scale", ""]),
    st.text(max_size=5),
)
names = st.lists(component, min_size=1, max_size=5).map(".".join)
ranges = st.sets(st.integers(0, 12), min_size=1).map(sorted)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        ("l.{0..2}.w", ["l.0.w", "l.1.w", "l.2.w"]),
        ("{q,o}_proj", ["q_proj", "o_proj"]),
        ("{0,2,5..7}", ["0", "2", "5", "6", "7"]),
        ("{0..1}.{a,b}", ["0.a", "0.b", "1.a", "1.b"]),
        ("s-{08..11}", ["s-08", "s-09", "s-10", "s-11"]),
        ("{,x}y", ["y", "xy"]),
        (r"\{a\}\\", [r"{a}" + "\\"]),
        (r"{a\,b,c}", ["a,b", "c"]),
        (r"a\u0020b\U0001f600", ["a b\N{GRINNING FACE}"]),
    ],
)
def test_a_pattern_stands_for_these_names(pattern: str, expected: list[str]) -> None:
    assert list(expand(pattern)) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0..1", "not closed"),
        ("a}", "without its"),
        ("{a,{b}}", "inside braces"),
        ("{}", "empty braces"),
        ("{5..1}", "backwards"),
        ("{0..99999999999}", "at most 1,000,000"),
        ("{0..999}.{0..999}.{0..9}", "10,000,000 names"),
        ("{a..b}", "not a range"),
        ("a\\", "backslash at the end"),
        (r"\U00110000", "no character"),
    ],
)
def test_a_malformed_pattern_says_what_is_wrong(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(pattern)


@given(st.sets(names, max_size=40))
def test_folded_names_expand_to_the_same_names_each_once(members: set[str]) -> None:
    folded = fold(members)
    expanded = [name for pattern, _ in folded for name in expand(pattern)]
    assert len(expanded) == len(members)
    assert set(expanded) == members
    assert expanded == [name for _, covered in folded for name in covered]


@given(ranges, ranges, st.sets(st.sampled_from(["gate", "up", "down"]), min_size=1))
def test_a_full_product_folds_into_one_pattern(layers: list[int], experts: list[int], parts: set[str]) -> None:
    members = [f"m.{layer}.experts.{expert}.{part}_proj" for layer in layers for expert in experts for part in parts]
    assert len(fold(members)) == 1


def test_names_fold_as_people_write_them() -> None:
    members = [
        f"model.layers.{i}.mlp.experts.{j}.{p}_proj" for i in range(62) for j in range(256) for p in ("gate", "up")
    ]
    assert [pattern for pattern, _ in fold(members)] == ["model.layers.{0..61}.mlp.experts.{0..255}.{gate,up}_proj"]
    assert [pattern for pattern, _ in fold(["a.0", "a.2", "a.5", "a.6", "a.7"])] == ["a.{0,2,5..7}"]
    assert [pattern for pattern, _ in fold(["l.10", "l.9", "b"])] == ["b", "l.{9..10}"]
    assert [pattern for pattern, _ in fold(["a.00", "a.01"])] == ["a.{00,01}"]
    assert [pattern for pattern, _ in fold(["weight", "weight_scale"])] == ["{weight,weight_scale}"]
    assert fold([]) == []


def of_experts(num_layers: int) -> list[str]:
    """Names of the experts of a large model."""
    return [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.{role}"
        for layer in range(3, 3 + num_layers) for expert in range(64) for part in ("gate", "up", "down")
        for role in ("weight", "weight_scale_inv")
    ]  # fmt: skip


def test_the_work_of_folding_grows_as_the_names_do() -> None:
    few, many = of_experts(8), of_experts(32)

    assert len(fold(many)) == 1
    assert calls(lambda: fold(many)) < 4.5 * calls(lambda: fold(few))
    assert calls(lambda: fold(many)) < 20 * len(many)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("model.*.x", "model.1.x", True),
        ("model.*.x", "model.1.2.x", False),
        ("*", "a.b", False),
        ("model.**.x", "model.1.2.x", True),
        ("model.**.x", "model.x", True),
        ("**", "a.b", True),
        ("**.x", "x", True),
        ("a.**", "a", True),
        ("a.**", "ab.c", False),
        ("a.**.b.**.c", "a.b.c", True),
        ("*.q_*", "l.q_proj", True),
        ("q", "q_proj", False),
        ("proj", "q_proj", False),
        ("a.b", "axb", False),
        ("l.{0..3}.*", "l.2.a", True),
        ("l.{0..3}.*", "l.4.a", False),
        ("{gate,up}_proj", "up_proj", True),
        ("a[0].(b)", "a[0].(b)", True),
        ("a.**", "a.x\ny", True),
    ],
)
def test_a_glob_matches_whole_components(pattern: str, name: str, matches: bool) -> None:
    assert glob_match(pattern, name) is matches


@given(st.sets(names.filter(lambda name: "*" not in name), min_size=1, max_size=10))
def test_a_folded_pattern_is_a_glob_for_its_names(members: set[str]) -> None:
    assert all(glob_match(pattern, name) for pattern, covered in fold(members) for name in covered)


def test_layer_2_comes_before_layer_10() -> None:
    assert sorted(["l.10.a", "l.2.b", "l.2.a", "k"], key=natural_key) == ["k", "l.2.a", "l.2.b", "l.10.a"]


@given(st.lists(st.text()))
def test_every_two_names_can_be_ordered(members: list[str]) -> None:
    assert len(sorted([*members, "9" * 5000], key=natural_key)) == len(members) + 1


def test_control_characters_are_shown_and_not_sent_to_the_terminal() -> None:
    assert escape("model.layers.0") == "model.layers.0"
    assert escape("\x1b[31m[bold]evil") == r"\x1b[31m[bold]evil"
    assert escape("a\x9bb\u202ec\nd\ud800") == r"a\x9bb\u202ec\nd\ud800"


@given(st.text())
def test_escaped_text_is_always_printable(text: str) -> None:
    assert escape(text).isprintable()
