"""Checkpoints in transformers' own models: the reference's logits and tokens, and all else as transformers has it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fp8load
import fp8load.transformers as hf
from checkpoints.test_logits import LoadedWeights
from fp8load.archs.base import Linear
from fp8load.archs.find import families
from fp8load.errors import LoadError, UsageError
from fp8load.runtime.experts import ScaledExperts
from fp8load.runtime.linear import ScaledLinear
from fp8load.transformers.families import MODEL_TYPES
from integration.tiny_models import plain_model, quantized, quantized_embedding, relative, shapes
from oracle import decoder
from oracle.catalog import DECODER_NAMES, FOLDER, config_of, reference_logits
from oracle.microscaling import NAMES as MICRO
from oracle.mixtures import CORRUPT

ROUNDED = {"ao-llamaodd-fp8wo", "ct-llama128-mixed-fp8-nvfp4", "ct-llama128-nvfp4", "ct-qwen3moe-nvfp4",
           "ctmf-phi3-nvfp4a16", "quanto-llama128-fp8wo"}  # fmt: skip
"""Tools that round what they dequantize to BF16; the references are of that."""
WITHOUT_REFERENCE = {"qk-llama128-mxfp6e3m2"}
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != CORRUPT)
WRITTEN = {config_of(FOLDER / name)["model_type"] for name in NAMES}
SIX = ("ct-llama128-fp8-static", "ct-qwen3-mxfp8", "mo-phi3-nvfp4", "mo-mixtral-fp8", "mo-qwen3moe-nvfp4",
       "hf-gptoss-mxfp4")  # fmt: skip
"""One of each shape of model: q, k and v apart; a tied head; fused on disk; three kinds of experts."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Products this small wait longer for each other's threads than they take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def float32(name: str | Path) -> torch.nn.Module:
    """The checkpoint in float32, nothing rounded on the way."""
    return hf.from_pretrained(FOLDER / name, dtype=torch.float32, backend="reference")


def prompt(name: str) -> torch.Tensor:
    """[2, 6]."""
    return torch.from_numpy(reference_logits(FOLDER / name, "logits_bf16")[0])


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_plain_model_and_of_the_reference(name: str, tmp_path: Path) -> None:
    input_ids = prompt(name)

    got = float32(name)(input_ids).logits

    if name not in ROUNDED | WITHOUT_REFERENCE:
        assert relative(got, torch.tensor(reference_logits(FOLDER / name)[1])) < 1e-5
    if name in {*ROUNDED, *WITHOUT_REFERENCE, *SIX}:
        with torch.no_grad():
            assert relative(got, plain_model(FOLDER / name, tmp_path / "plain")(input_ids).logits) < 1e-5


@pytest.mark.parametrize("name", [name for name in DECODER_NAMES if name not in MICRO][::3])
def test_a_default_backend_gives_the_logits_of_the_fused_layers(name: str) -> None:
    input_ids, _ = reference_logits(FOLDER / name)
    fused = LoadedWeights(fp8load.load(FOLDER / name))

    got = hf.from_pretrained(FOLDER / name, dtype=torch.float32)(torch.from_numpy(input_ids)).logits

    expected = torch.from_numpy(decoder.logits(input_ids, fused, config_of(FOLDER / name)))
    assert relative(got, expected) < 1e-2  # a rounded input may fall to the other side
    assert (got.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("name", SIX)
def test_sixteen_bits_are_near_the_plain_model_in_sixteen_bits(name: str, backend: str | None, tmp_path: Path) -> None:
    model = hf.from_pretrained(FOLDER / name, backend=backend)

    got = model(prompt(name)).logits

    assert (model.dtype, got.dtype) == (torch.bfloat16, torch.bfloat16)
    with torch.no_grad():
        expected = plain_model(FOLDER / name, tmp_path / "plain", torch.bfloat16)(prompt(name)).logits
    assert relative(got, expected) < (0.02 if backend else 0.3)  # inputs in FP4 cost that much


@pytest.mark.parametrize("name", SIX)
def test_greedy_generation_with_a_cache_gives_the_plain_models_tokens(name: str, tmp_path: Path) -> None:
    input_ids = prompt(name)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "use_cache": True}

    tokens = float32(name).generate(input_ids, attention_mask=torch.ones_like(input_ids), **options)

    plain = plain_model(FOLDER / name, tmp_path / "plain")
    expected = plain.generate(input_ids, attention_mask=torch.ones_like(input_ids), **options)
    assert tokens.shape == (2, 14)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("name", SIX)
def test_all_but_the_layers_is_as_transformers_has_it(name: str, tmp_path: Path) -> None:
    model = hf.from_pretrained(FOLDER / name, backend="reference")

    plain = plain_model(FOLDER / name, tmp_path / "plain", torch.bfloat16)
    replaced = [at for at, module in model.named_modules() if isinstance(module, ScaledLinear | ScaledExperts)]
    own = tuple(f"{at.removesuffix('.layer')}." for at in replaced)
    assert replaced
    assert type(model) is type(plain)
    assert not model.training
    assert not any(module.training for module in model.modules())
    for kind in ("named_parameters", "named_buffers"):
        kept = [(at, tensor) for at, tensor in getattr(plain, kind)() if not at.startswith(own)]
        mine = [(at, tensor) for at, tensor in getattr(model, kind)() if not at.startswith(own)]
        assert shapes(mine) == shapes(kept)
        assert all(torch.equal(tensor, dict(kept)[at]) for at, tensor in mine)
    assert model.config.to_dict() | {"_name_or_path": ""} == plain.config.to_dict() | {"_name_or_path": ""}
    assert model.generation_config.to_dict() == plain.generation_config.to_dict()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    assert model.name_or_path == str(FOLDER / name)


@pytest.mark.parametrize("name", SIX)
def test_every_weight_is_held_once(name: str) -> None:
    model = hf.from_pretrained(FOLDER / name)

    plan = fp8load.open(FOLDER / name).plan()
    unused = sum(4 for spec in plan.params.values() if spec.name.endswith((".k_scale", ".v_scale")))
    assert sum(param.nbytes for param in model.parameters()) == plan.nbytes - unused


def test_nothing_is_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    hf.from_pretrained(FOLDER / "ct-llama128-fp8-static")

    assert capfd.readouterr() == ("", "")


def test_no_family_that_is_listed_has_rows_in_another_order_than_its_model() -> None:
    """Fused rows in groups are [q; k; v] in a plan: transformers' module would run them, and be wrong."""
    grouped = {
        model_type
        for arch in families()
        if any(isinstance(entry, Linear) and entry.groups is not None for entry in arch.every())
        for model_type in arch.model_types
    }

    assert "bloom" in grouped
    assert not grouped & set(MODEL_TYPES)


def test_a_copy_of_a_model_is_a_model_of_its_own() -> None:
    model = float32("mo-qwen3moe-nvfp4")

    again = copy.deepcopy(model)

    assert torch.equal(again(prompt("mo-qwen3moe-nvfp4")).logits, model(prompt("mo-qwen3moe-nvfp4")).logits)


def test_nothing_wants_a_gradient_so_that_a_call_needs_no_context() -> None:
    model = float32("mo-qwen3moe-nvfp4")

    assert not any(param.requires_grad for param in model.parameters())
    assert not model(prompt("mo-qwen3moe-nvfp4")).logits.requires_grad


def test_a_model_with_these_layers_is_not_saved(tmp_path: Path) -> None:
    model = float32("ct-llama128-fp8-static")

    with pytest.raises(UsageError, match=r"USE034.*\n(.*\n)*.*plain_tensors"):
        model.save_pretrained(tmp_path / "saved")

    assert not (tmp_path / "saved").exists()


def test_a_family_that_is_not_listed_is_named_with_those_that_are() -> None:
    tiny = {"model_type": "bloom"}
    folder = FOLDER / "ct-llama128-fp8-static"
    checkpoint = fp8load.open(folder)
    checkpoint.index.configs["config.json"].update(tiny)  # type: ignore[attr-defined]

    from fp8load.transformers.families import known

    with pytest.raises(UsageError, match=r"USE030") as caught:
        known(checkpoint)

    assert "llama" in caught.value.expected
    assert "bloom" in caught.value.got
    assert "plain_tensors" in caught.value.hint


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "find_spec", lambda name: None)

    with pytest.raises(UsageError, match=r"pip install 'fp8load\[transformers\]'"):
        hf.from_pretrained(FOLDER / "ct-llama128-fp8-static")


def test_a_family_that_the_installed_transformers_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fp8load.transformers.build.CONFIG_MAPPING", {})

    with pytest.raises(UsageError, match=r"USE031.*\n(.*\n)*.*model_type llama"):
        hf.from_pretrained(FOLDER / "ct-llama128-fp8-static")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.float64])
def test_a_dtype_that_no_model_computes_in_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="USE032"):
        hf.from_pretrained(FOLDER / "ct-llama128-fp8-static", dtype=dtype)


def test_a_path_has_no_revision() -> None:
    with pytest.raises(UsageError, match=r"USE033.*\n(.*\n)*.*folder"):
        hf.from_pretrained(FOLDER / "ct-llama128-fp8-static", revision="main")


def test_a_repository_is_opened_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = fp8load.open
    monkeypatch.setattr(
        fp8load, "open", lambda source, **kw: asked.append(source) or real(FOLDER / "ct-llama128-fp8-static", **kw)
    )

    hf.from_pretrained("some/repo", revision="v1")
    hf.from_pretrained("some/repo@v2")

    assert asked == ["some/repo@v1", "some/repo@v2"]


def test_a_forced_backend_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="BKD800"):
        hf.from_pretrained(FOLDER / "ct-llama128-fp8-static", backend="nope")


def test_a_checkpoint_that_is_fused_where_the_model_is_not_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "fused"
    shutil.copytree(FOLDER / "ct-phi3-fp8-static-kv", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    read: list[int] = []

    with pytest.raises(LoadError, match=r"FILL712.*\n.*model\.layers\.0\.self_attn\.qkv_proj"):
        hf.from_pretrained(folder, progress=lambda done, total: read.append(done))

    assert read == []


def test_a_tensor_that_stays_on_the_meta_device_is_named() -> None:
    from fp8load.transformers.build import _refuse_meta

    module = torch.nn.Module()
    module.register_buffer("inv_freq", torch.empty(2, device="meta"))

    with pytest.raises(LoadError, match="inv_freq"):
        _refuse_meta(module)


@pytest.mark.parametrize("tied", [False, True])
def test_a_quantized_embedding_is_dequantized_for_its_rows(tied: bool, tmp_path: Path) -> None:
    folder = quantized_embedding("qwen3", tmp_path / "quantized", tied=tied)

    model = hf.from_pretrained(folder, backend="reference")

    assert isinstance(model.get_input_embeddings(), torch.nn.Embedding)
    expected = fp8load.open(folder).dequantize("model.embed_tokens").bfloat16()
    assert torch.equal(model.get_input_embeddings().weight, expected)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "mixtral"])
def test_experts_that_are_not_quantized_are_transformers_own(model_type: str, tmp_path: Path) -> None:
    folder = quantized(model_type, tmp_path / "quantized")
    again = tmp_path / "again"
    plain = plain_model(folder, again)

    model = hf.from_pretrained(again, dtype=torch.float32)

    assert not any(isinstance(module, ScaledLinear | ScaledExperts) for module in model.modules())
    state = model.state_dict()
    assert [name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, state[name])] == []


def test_layers_for_multi_token_prediction_are_left_on_disk(tmp_path: Path) -> None:
    folder = quantized("glm4_moe", tmp_path / "quantized")
    tensors = load_file(folder / "model.safetensors")
    at = "model.layers.2."
    for name, tensor in list(tensors.items()):
        if name.startswith("model.layers.1."):
            tensors[at + name.removeprefix("model.layers.1.")] = tensor.clone()
    tensors.update({f"{at}{name}.weight": torch.ones(48).bfloat16() for name in ("enorm", "hnorm", "shared_head.norm")})
    tensors[f"{at}eh_proj.weight"] = torch.ones(48, 96).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    left = [name.replace("layers.1.", "layers.2.") for name in config["quantization_config"]["modules_to_not_convert"]]
    config["quantization_config"]["modules_to_not_convert"] += [*left, f"{at}eh_proj"]
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    totals: set[int] = set()

    model = hf.from_pretrained(folder, progress=lambda done, total: totals.add(total))

    assert "model.layers.2.self_attn.o_proj" in fp8load.open(folder).plan(fuse=False).layers
    assert len(model.model.layers) == 2
    assert max(totals) < fp8load.open(folder).plan().nbytes_read


@pytest.mark.parametrize("model_type", sorted(set(MODEL_TYPES) - WRITTEN))
def test_every_family_that_no_tool_wrote_here_gives_transformers_logits(model_type: str, tmp_path: Path) -> None:
    folder = quantized(model_type, tmp_path / "quantized")
    input_ids = torch.arange(3, 15).reshape(2, 6)
    with torch.no_grad():
        expected = plain_model(folder, tmp_path / "plain")(input_ids).logits

    model = hf.from_pretrained(folder, dtype=torch.float32, backend="reference")

    layers = sum(isinstance(module, ScaledLinear | ScaledExperts) for module in model.modules())
    experts = 2 * sum(isinstance(module, ScaledExperts) for module in model.modules())
    assert layers - experts // 2 + experts == len(fp8load.open(folder).plan(fuse=False).layers)
    assert relative(model(input_ids).logits, expected) < 1e-5
