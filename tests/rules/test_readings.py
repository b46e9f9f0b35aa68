"""Entries of ignore lists under six readings: what each covers, and that the short cuts change no answer."""

from __future__ import annotations

import fnmatch
import re

import pytest

from fp8load.formats.match import exact_or_regex, glob_or_prefix
from fp8load.rules.readings import Readers, readings
from fp8load.rules.samples import LISTED
from rules.examples import checkpoint_of

MODULES = [
    *(f"model.layers.{layer}.mlp.{last}" for layer in range(12) for last in ("gate_proj", "up_proj")),
    *(f"model.layers.{layer}.self_attn.{last}" for layer in range(12) for last in ("q_b_proj", "o_proj")),
    *(f"model.layers.{layer}.mlp.experts.{expert}.w1" for layer in range(3) for expert in range(12)),
    "lm_head", "mtp.fc",
]  # fmt: skip
ENTRIES = [
    "lm_head", "gate", "mlp.gate", "b_proj", "model.layers.1", "model.layers.1.mlp.gate", "layers.1.", "1.mlp",
    "model.layers.1.mlp.gate_proj", "experts.1", "experts.11", ".1.w", "*.mlp.gate*", "model.layers.1.*",
    "model.layers.1*", "*layers.1?.mlp*", "layers.1?.mlp", "re:.*mlp.gate.*", r"re:model\.layers\.[0-9]+\.mlp\..*",
    r"re:model\.layers\.1\.", r"re:.*\.1\..*w1", "[ab", "re:(", "mlp.experts.5", "model.layers.2.mlp.experts.5.w", "fc",
]  # fmt: skip


def slowly(entry: str, module: str) -> set[str]:
    """The readings of an entry that cover a module, one after the other."""
    expression = entry.removeprefix("re:")
    found = set()
    if expression == entry:
        found |= {"exact"} if entry == module else set()
        found |= {"dotted suffix"} if f".{module}".endswith(f".{entry}") else set()
        found |= {"substring"} if entry in module else set()
        found |= {"fnmatch"} if fnmatch.fnmatchcase(module, entry) and re.search(r"[^\w.-]", entry) else set()
    try:
        found |= {"re.match"} if re.match(expression, module) else set()
        found |= {"re.search"} if re.search(expression, module) else set()
    except re.error:
        pass  # no expression
    return found


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("covers", [exact_or_regex, glob_or_prefix])
def test_each_reading_reaches_what_a_search_of_all_modules_finds(entry, covers):
    if entry == "re:(" and covers is exact_or_regex:
        with pytest.raises(re.error):
            covers(entry, "m")
        return
    expected: dict[str, int] = {}
    for module in MODULES:
        for reading in slowly(entry, module) if not covers(entry, module) else ():
            expected[reading] = expected.get(reading, 0) + 1

    found = {reach.reading: reach.num_modules for reach in Readers(MODULES).reach(entry, covers)}

    assert found == expected


def test_the_example_of_a_reach_is_covered():
    for entry in ENTRIES[:-5]:
        for reach in Readers(MODULES).reach(entry, lambda _entry, _module: False):
            assert reach.reading in slowly(entry, reach.example)


def test_an_expression_has_no_other_readings():
    assert [name for name, _ in readings("re:a.*")] == ["re.match", "re.search"]
    assert [name for name, _ in readings("*.gate")] == ["exact", "dotted suffix", "substring", "fnmatch"]


def test_thousands_of_full_names_meet_few_modules():
    names = [f"model.layers.{layer}.mlp.experts.{expert}.gate" for layer in range(40) for expert in range(64)]
    calls = 0
    readers = Readers(f"{name}_proj" for name in names)

    def covers(_entry: str, _module: str) -> bool:
        nonlocal calls
        calls += 1
        return False

    reached = [reach for name in names for reach in readers.reach(name, covers)]

    assert {reach.reading for reach in reached} == {"substring", "re.match", "re.search"}
    assert calls == 3 * len(names)


@pytest.mark.parametrize(("entry", "severity"), [
    ("mlp.gate", "warning"), ("model.layers.0.mlp.gate", "info"), ("re:model.layers.0.mlp.gate$", None),
])  # fmt: skip
def test_a_part_of_a_name_is_loud_and_a_full_name_is_a_note(entry, severity):
    skeleton = LISTED.replace("lm_head", entry) + (
        "model.layers.0.mlp.gate.weight BF16 [8, 256]\n"
        "model.layers.0.mlp.gate_proj.weight F8_E4M3 [256, 256]\n"
        "model.layers.0.mlp.gate_proj.weight_scale_inv F32 [2, 2]\n"
    )
    found = [finding for finding in checkpoint_of(skeleton).verify("headers").findings if finding.code == "F8L304"]

    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    assert all(finding.modules == [entry] for finding in found)
