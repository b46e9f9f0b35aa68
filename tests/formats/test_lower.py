"""Tensors against claims: each contradiction is a problem under its rule's code, and nothing is guessed."""

from __future__ import annotations

import pytest

from fp8load.errors import Problem, Severity
from fp8load.scheme import Role
from sketch import Llama, open_skeleton

CHANNEL = Llama(layers=3)
BLOCK = Llama(layers=3, scale=(16, 16))
STATIC = Llama(layers=3, scale="tensor", static=True)
UP = "model.layers.1.mlp.up_proj"


def edited(llama: Llama, *edits: str) -> tuple[Problem, ...]:
    """Problems of a checkpoint with some tensors changed: "name = DTYPE [shape]", "- name", "+ name DTYPE [shape]"."""
    index = llama.open().index
    lines = {name: f"{name} {meta.dtype} {list(meta.shape)}" for name, meta in index.tensors.items()}
    for edit in edits:
        sign, name, *rest = edit.split(" ", 2)
        if sign == "-":
            del lines[name]
        else:
            assert (sign == "+") == (name not in lines)
            lines[name] = f"{name} {rest[0]}"
    config = llama.skeleton().splitlines()[0]
    return open_skeleton("\n".join([config, *lines.values()])).problems


def only(problems: tuple[Problem, ...], code: str, tensor: str) -> Problem:
    """The problem under `code`; no other code may refuse."""
    found = [problem for problem in problems if problem.code == code]
    assert [problem.tensor for problem in found] == [tensor], problems
    return found[0]


@pytest.mark.parametrize("llama", [CHANNEL, BLOCK, STATIC, STATIC.but(fused=True), CHANNEL.but(quantized=False)])
def test_a_sound_checkpoint_has_no_problem(llama: Llama) -> None:
    assert edited(llama) == ()


def test_a_missing_scale_is_named_with_the_shape_it_should_have() -> None:
    problem = only(edited(BLOCK, f"- {UP}.weight_scale_inv"), "F8L201", f"{UP}.weight_scale_inv")

    assert problem.expected == f"[6, 4] for {UP}.weight F8_E4M3 [96, 64]"
    assert problem.refuses


def test_a_missing_input_scale_of_a_static_scheme() -> None:
    assert only(edited(STATIC, f"- {UP}.input_scale"), "F8L204", f"{UP}.input_scale").refuses


def test_an_input_scale_of_a_dynamic_scheme_is_stray_and_harmless() -> None:
    problem = only(edited(CHANNEL, f"+ {UP}.input_scale BF16 [1]"), "F8L106", f"{UP}.input_scale")

    assert (problem.severity, problem.refuses) == (Severity.INFO, False)


def test_a_weight_that_lost_its_quantization_leaves_an_orphan_scale() -> None:
    problem = only(edited(CHANNEL, f"= {UP}.weight BF16 [96, 64]"), "F8L202", f"{UP}.weight_scale")

    assert (problem.severity, problem.refuses) == (Severity.ERROR, True)


def test_transformers_junk_scale_is_reported_and_left_out() -> None:
    """Blocks of 16 do not divide 100 rows: transformers keeps the weight in BF16 and writes uninitialised memory."""
    checkpoint = BLOCK.but(intermediate=100, layers=1)
    names = [f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up")]
    problems = edited(checkpoint, *(f"= {name}.weight BF16 [100, 64]" for name in names),
                      "= model.layers.0.mlp.down_proj.weight BF16 [64, 100]")  # fmt: skip

    assert {problem.code for problem in problems} == {"F8L202"}
    assert not any(problem.refuses for problem in problems)


def test_a_scale_beside_an_ignored_module_is_a_warning() -> None:
    problem = only(edited(CHANNEL, "+ lm_head.weight_scale BF16 [50, 1]"), "F8L202", "lm_head.weight_scale")

    assert (problem.severity, problem.refuses) == (Severity.WARNING, False)


def test_a_module_that_the_ignore_list_covers_and_that_is_quantized() -> None:
    problems = edited(CHANNEL, "= lm_head.weight F8_E4M3 [50, 64]", "+ lm_head.weight_scale BF16 [50, 1]")

    assert only(problems, "F8L303", "lm_head.weight").refuses


def test_fp8_without_any_configuration() -> None:
    text = "\n".join(CHANNEL.skeleton().splitlines()[1:])

    problems = open_skeleton(text).problems

    assert {problem.code for problem in problems} == {"F8L101"}
    assert len(problems) == 7 * 3


@pytest.mark.parametrize("shape", ["[95, 1]", "[96, 2]", "[1]", "[1, 96]"])
def test_a_channel_scale_of_another_shape(shape: str) -> None:
    assert only(
        edited(CHANNEL, f"= {UP}.weight_scale BF16 {shape}"), "F8L501", f"{UP}.weight_scale"
    ).expected.startswith("[96, 1]")


@pytest.mark.parametrize("shape", ["[]", "[1]", "[1, 1]"])
def test_one_number_is_one_number_in_every_spelling(shape: str) -> None:
    assert edited(STATIC, *(f"= {UP}.{role} BF16 {shape}" for role in ("weight_scale", "input_scale"))) == ()


def test_a_channel_scale_without_its_second_axis_is_a_dialect() -> None:
    assert edited(CHANNEL, f"= {UP}.weight_scale BF16 [96]") == ()


def test_exponent_bytes_are_no_scale_of_this_format() -> None:
    assert only(edited(BLOCK, f"= {UP}.weight_scale_inv U8 [6, 4]"), "F8L105", f"{UP}.weight_scale_inv").refuses


def test_another_float8_than_the_configuration_says() -> None:
    assert only(edited(CHANNEL, f"= {UP}.weight F8_E5M2 [96, 64]"), "F8L105", f"{UP}.weight").expected == "F8_E4M3"


def test_two_scales_for_one_weight() -> None:
    problem = only(edited(BLOCK, f"+ {UP}.weight_scale F32 [6, 4]"), "F8L203", f"{UP}.weight_scale")

    assert f"{UP}.weight_scale_inv" in problem.got


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [(f"{UP}.weight_scale", "BF16 [96, 1]", "F32 [96, 1]"),
     ("model.layers.1.input_layernorm.weight", "BF16 [64]", "F16 [64]"),
     ("model.norm.weight", "BF16 [64]", "F16 [64]")],
)  # fmt: skip
def test_the_odd_dtype_among_siblings_is_named(name: str, was: str, now: str) -> None:
    problem = next(problem for problem in edited(CHANNEL, f"= {name} {now}") if problem.tensor == name)

    assert (problem.expected, problem.got) == (was.split(maxsplit=1)[0], now.split(maxsplit=1)[0])
    assert problem.refuses


def test_norms_in_another_dtype_than_the_rest_are_a_choice() -> None:
    norms = [f"model.layers.{i}.{name}_layernorm.weight" for i in range(3) for name in ("input", "post_attention")]

    assert edited(CHANNEL, *(f"= {name} F32 [64]" for name in [*norms, "model.norm.weight"])) == ()


def test_a_single_tensor_of_another_dtype_is_no_fault_in_a_family_that_is_not_known() -> None:
    unknown = CHANNEL.but(extra={"model_type": "nobody_knows"})

    assert edited(unknown, "= model.norm.weight F32 [64]") == ()
    assert edited(unknown, "= model.layers.1.input_layernorm.weight F16 [64]") != ()


def test_a_scale_whose_weight_is_gone() -> None:
    problems = edited(CHANNEL, f"- {UP}.weight")

    assert {problem.tensor for problem in problems} == {f"{UP}.weight", f"{UP}.weight_scale"}
    assert {problem.code for problem in problems} == {"F8L109", "F8L202"}


def test_kv_scales_are_found_under_modelopts_spelling() -> None:
    lines = [f"model.layers.{i}.self_attn.{p}_proj.{p}_scale F32 []" for i in range(3) for p in ("k", "v")]
    config = CHANNEL.skeleton().splitlines()

    checkpoint = open_skeleton("\n".join(config + lines))

    assert checkpoint.problems == ()
    assert ("model.layers.2.self_attn", Role.V_SCALE) in checkpoint.lowered.kv
    assert checkpoint.plan().params["model.layers.2.self_attn.v_scale"].shape == (1,)


def test_one_missing_kv_scale_is_named() -> None:
    lines = [f"model.layers.{i}.self_attn.{p}_scale F32 []" for i in range(3) for p in ("k", "v")]

    problems = open_skeleton("\n".join(CHANNEL.skeleton().splitlines() + lines[:-1])).problems

    assert [(problem.code, problem.tensor) for problem in problems] == [("F8L901", "model.layers.2.self_attn.v_scale")]
