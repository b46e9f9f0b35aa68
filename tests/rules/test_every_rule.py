"""What holds for every rule: its documentation, its name, and its examples, which are executed."""

from __future__ import annotations

from pathlib import Path

import pytest

import fp8load.rules
from fp8load.engines.gpus import find_gpu
from fp8load.engines.registry import find_profiles
from fp8load.engines.rounding import scales_to_round
from fp8load.engines.verdict import Target
from fp8load.rules.base import LEVELS, Context, Example, Rule
from fp8load.rules.registry import rules
from fp8load.rules.scales import ScaleReader
from fp8load.rules.weights import WeightReader
from fp8load.values.compare import compared
from rules.examples import checkpoint_of
from sketch import open_skeleton

FOLDER = Path(fp8load.rules.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("f8[a-z][0-9]*.py"))
EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}: {example.title}") for rule in rules() for example in rule.examples
]


def problems_of(rule: Rule, example: Example):
    ckpt = checkpoint_of(example.skeleton, example.values, example.files)
    engines, gpu = find_profiles(example.engine or ()), None if example.arch is None else find_gpu(example.arch)
    to_round = scales_to_round(engines, ckpt.stored, Target(gpu=gpu))
    scales = None if rule.level == "headers" else ScaleReader(ckpt, to_round)
    weights = WeightReader(ckpt) if rule.level == "weights" else None
    against = compared(ckpt, source) if (source := source_of(example)) is not None else None
    context = Context(checkpoint=ckpt, tp=example.tp, scales=scales, weights=weights, engines=engines, gpu=gpu,
                      against=against, hash=True)  # fmt: skip
    return list(rule.check(context))


@pytest.mark.parametrize(("rule", "example"), [param for param in EXAMPLES if not param.values[1].files])
def test_a_report_of_headers_reads_no_tensor(rule, example):
    """What can be repaired, and how, is said of a skeleton too, which has no data: reading it would raise."""
    del rule

    report = open_skeleton(example.skeleton).verify("headers", tp=example.tp, engine=example.engine, arch=example.arch)

    assert report.summary.crashed == []


def source_of(example: Example):
    """What an example's weights are compared with."""
    return None if example.against is None else checkpoint_of(*example.against)


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_an_example_fires_as_often_as_it_says(rule, example):
    problems = problems_of(rule, example)

    assert len(problems) == example.count, problems
    assert {problem.code for problem in problems} <= {rule.code}


@pytest.mark.parametrize(("rule", "example"), [param for param in EXAMPLES if param.values[1].count])
def test_a_problem_says_what_where_expected_and_got(rule, example):
    for problem in problems_of(rule, example):
        assert problem.message
        assert problem.where
        assert problem.got or problem.expected


@pytest.mark.parametrize(("rule", "example"), [param for param in EXAMPLES if param.values[1].count])
def test_the_report_has_the_finding_of_an_example_that_fires(rule, example):
    ckpt = checkpoint_of(example.skeleton, example.values, example.files)
    report = ckpt.verify("weights", tp=example.tp, engine=example.engine, arch=example.arch, against=source_of(example),
                         hash=True)  # fmt: skip
    found = [finding for finding in report.findings if finding.code == rule.code]

    assert sum(finding.count for finding in found) == example.count
    assert {finding.name for finding in found} == {rule.name}
    assert report.summary.crashed == []
    assert rule.code not in report.summary.passed


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_a_rule_is_documented(rule):
    assert rule.what.endswith(".")
    assert rule.why.endswith(".")
    assert rule.fix
    assert rule.level in LEVELS


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_a_rule_has_an_example_that_fires_and_one_that_is_silent(rule):
    assert any(example.count for example in rule.examples)
    assert any(not example.count for example in rule.examples)


def test_codes_and_names_are_those_of_the_files():
    assert [rule.code for rule in rules()] == [stem[:6].upper() for stem in FILES]
    assert [rule.name.replace("-", "_") for rule in rules()] == [stem[7:] for stem in FILES]
    assert len({rule.name for rule in rules()}) == len(FILES)
