"""What outside packages announce: found in the order of names, and an error that names the line which is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fp8load.errors import UsageError
from fp8load.plugins import plugins
from fp8load.runtime.backend import providers
from fp8load.runtime.grouped import grouped_providers

GROUPS = ("fp8load.formats", "fp8load.archs", "fp8load.rules", "fp8load.backends", "fp8load.grouped_backends")
CACHED = {"fp8load.backends": providers, "fp8load.grouped_backends": grouped_providers}
Installed = Callable[[str], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """`installed(lines)`: a distribution with these lines in each group, as importlib.metadata sees one."""
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def write(lines: str) -> None:
        (info / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group in GROUPS))

    return write


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("value", ["no_such_module:THING", "math:no_such_name"])
def test_a_plugin_that_cannot_be_loaded_is_named(group: str, value: str, installed: Installed) -> None:
    installed(f"aaa = {value}")

    with pytest.raises(UsageError) as caught:
        CACHED[group].__wrapped__() if group in CACHED else plugins(group, float)

    assert caught.value.code == "USE005"
    assert group in str(caught.value)
    assert f"aaa = {value}" in caught.value.got


def test_a_plugin_of_another_kind_is_named_with_what_it_is(installed: Installed) -> None:
    installed("aaa = math:pi")

    with pytest.raises(UsageError) as caught:
        plugins("fp8load.rules", str)

    assert (caught.value.expected, caught.value.got) == ("str", "aaa = math:pi: float")


def test_plugins_come_in_the_order_of_their_names(installed: Installed) -> None:
    installed("b = math:pi\nc = math:e\na = math:tau")

    assert [round(number, 2) for number in plugins("fp8load.rules", float)] == [6.28, 3.14, 2.72]
