"""Profiles: what they may say, that every fact decides something, and which of them a user means."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from engines.corpus import answers, corpus
from engines.mutations import CODES, mutations
from engines.sketches import SKETCHES
from fp8load.engines.profile import Profile
from fp8load.engines.registry import find_profile, find_profiles, newest, profiles
from fp8load.errors import UsageError


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.spec)
def test_every_fact_of_a_profile_decides_something(profile):
    """Taken out by itself, each one changes what the engine says of some checkpoint: it loads with it or without."""
    names, whole, idle = list(corpus()), {}, []
    for what, kind, without in mutations(profile):
        codes = CODES[kind]
        if codes not in whole:
            whole[codes] = answers(profile, codes, names)
        if answers(without, codes, names) == whole[codes]:
            idle.append(what)

    assert idle == []


@pytest.mark.parametrize("name", SKETCHES)
def test_a_sketch_holds_something_quantized(name):
    assert corpus()[name].held


def test_every_fact_says_where_it_was_read():
    documents = [profile.model_dump() for profile in profiles()]
    places: list[str] = []

    def collect(value):
        if isinstance(value, dict):
            places.extend(text for key, text in value.items() if key == "where")
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                collect(inner)

    collect(documents)

    assert len(places) > 100
    assert all(len(place) > 10 for place in places)


def test_two_versions_of_an_engine_stand_side_by_side():
    specs = [profile.spec for profile in profiles()]

    assert {"vllm@0.11", "vllm@0.33", "sglang@0.5.4", "sglang@0.5.23", "transformers@4.53"} <= set(specs)
    assert [profile.spec for profile in newest() if profile.engine == "sglang"] == ["sglang@0.5.23"]


@pytest.mark.parametrize(("asked", "found"), [
    ("vllm", "vllm@0.33"), ("vllm@0.33", "vllm@0.33"), ("vllm@0.33.1", "vllm@0.33"), ("vLLM==v0.11.0", "vllm@0.11"),
    ("vllm@0.33+cu129", "vllm@0.33"), ("hf", "transformers@5.23"), ("trtllm", "tensorrt-llm@008e0af"),
])  # fmt: skip
def test_an_engine_is_found_by_name_and_version(asked, found):
    assert find_profile(asked).spec == found


@pytest.mark.parametrize(("asked", "near"), [
    ("vlm", "vllm"), ("sgl", "sglang"), ("vllm@0.32", "0.33"), ("vllm@0.3", "0.33"), ("sglang@0.5", "0.5.4"),
    ("vllm@0.331", "0.33"), ("", "one of"), ("@0.33", "one of"),
])  # fmt: skip
def test_an_engine_or_a_version_without_a_profile_is_a_usage_error_that_names_the_nearest(asked, near):
    with pytest.raises(UsageError, match=re.escape(near)) as caught:
        find_profile(asked)

    assert caught.value.code == "USE022"


@pytest.mark.parametrize(("asked", "hint"), [
    ("trtllm@1.2", "what another version does is not known; trtllm alone means 008e0af"),
    ("qqq", "without --engine, findings hold for every reader"),
])  # fmt: skip
def test_where_nothing_is_near_the_error_says_what_can_be_asked(asked, hint):
    with pytest.raises(UsageError) as caught:
        find_profile(asked)

    assert caught.value.problem.hint == hint


def test_an_engine_that_is_asked_for_twice_counts_once():
    assert [profile.spec for profile in find_profiles(["vllm", "vllm@0.33", "sglang"])] == [
        "vllm@0.33",
        "sglang@0.5.23",
    ]


@pytest.mark.parametrize("wrong", [
    {"formats": {"fp8": {"where": "x.py", "linears": ["fp9"]}}},
    {"formats": {"fp8": {"linears": []}}},
    {"gpus": [{"where": "x.py", "kinds": ["fp8-block"], "oldest": "sm1", "native": "sm90"}]},
    {"format": {}},
])  # fmt: skip
def test_a_profile_with_a_kind_a_gpu_or_a_key_that_does_not_exist_is_refused(wrong):
    document = {"engine": "e", "title": "E", "versions": ["1"], "read_from": "its source", "formats": {}}

    Profile.model_validate(document)
    with pytest.raises(ValidationError):
        Profile.model_validate(document | wrong)
