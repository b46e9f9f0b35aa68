"""The deletion test: whatever one tensor lacks, has too much of or gets wrong, verify and load both name that tensor.

Exceptions, tested below: a scale beside a weight that is not quantized (nothing reads it), a tied head that is stored
once more (both copies are the same), and a head in F32 (the numbers are those that it had).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import oracle.microscaling
import oracle.mixtures
from oracle.catalog import FOLDER, NAMES, ORPHAN_SCALES, config_of
from oracle.damage import FAULTS, HEAD, stored_of
from oracle.dequantize import tensors
from oracle.rewrite import cast, with_one_nan, write_checkpoint


def facts_about(report, subject: str) -> set[tuple[str, str, str, str]]:
    """What the findings that name a tensor say."""
    return {
        (finding.code, finding.message, finding.expected, finding.got)
        for finding in report.findings
        if subject in finding.tensors and finding.code.startswith("F8L")
    }


def complaints(folder: Path, before, subject: str) -> Iterator[str]:
    """What is wrong with how the library takes one damaged checkpoint; `before` is the report on the undamaged one."""
    import fp8load
    from fp8load.errors import Fp8LoadError

    report = fp8load.open(folder).verify(level="scales")
    if not facts_about(report, subject) - facts_about(before, subject):
        yield "no finding names it"
    if report.ok:
        yield "verify says ok"
    try:
        fp8load.open(folder).plan().load(device="cpu")
    except Fp8LoadError as error:
        if subject not in str(error):
            yield f"load does not name it: {error}"
    else:
        yield "it loads"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_verify_and_load_name_the_tensor_that_is(name, fault, tmp_path):
    import fp8load

    original = write_checkpoint(FOLDER / name, tmp_path / "original", stored_of(name))
    before = fp8load.open(original).verify(level="scales")
    wrong = []
    for number, case in enumerate(fault(name)):
        folder = write_checkpoint(FOLDER / name, tmp_path / str(number), case.stored, case.index)
        wrong += [f"{case.subject}: {complaint}" for complaint in complaints(folder, before, case.subject)]

    assert not wrong, "\n" + "\n".join(wrong)


WITH_HEAD = [name for name in NAMES if stored_of(name).get(HEAD) is not None and stored_of(name)[HEAD].dtype == "BF16"]


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_head_in_f32_is_no_fault_and_loads_the_numbers_that_it_holds(name, tmp_path):
    """As fine-tuning stores it (PEFT's `modules_to_save`): numbers that BF16 does not have, too."""
    import torch

    import fp8load

    head = cast(stored_of(name)[HEAD], "F32")
    numbers = torch.frombuffer(bytearray(head.data), dtype=torch.float32) * (1 + 2**-12)
    content = head._replace(data=numbers.numpy().tobytes())
    original = write_checkpoint(FOLDER / name, tmp_path / "original", stored_of(name))
    folder = write_checkpoint(FOLDER / name, tmp_path / "copy", {**stored_of(name), HEAD: content})
    before, report = (fp8load.open(path).verify(level="scales") for path in (original, folder))
    model = fp8load.load(folder)

    assert [f.severity for f in report.findings if f.code == "F8L109" and HEAD in f.tensors] == ["info"]
    assert (report.ok, report.summary.error, report.summary.warning) == (
        before.ok, before.summary.error, before.summary.warning)  # fmt: skip
    assert torch.equal(model.tensors[HEAD].flatten(), numbers)


ORPHANS = [(name, scale) for name in ORPHAN_SCALES for scale in ORPHAN_SCALES[name]]


@pytest.mark.parametrize(("name", "scale"), ORPHANS)
def test_a_scale_beside_an_unquantized_weight_may_go_because_no_reader_uses_it(name, scale, tmp_path):
    import fp8load

    rest = {tensor: content for tensor, content in stored_of(name).items() if tensor != scale}
    ckpt = fp8load.open(write_checkpoint(FOLDER / name, tmp_path / "without", rest, list(rest)))

    assert not facts_about(ckpt.verify(level="scales"), scale)
    assert ckpt.plan().load(device="cpu")


@pytest.mark.parametrize(("name", "scale"), ORPHANS)
def test_a_scale_beside_an_unquantized_weight_is_reported_and_never_multiplied_in(name, scale, tmp_path):
    import fp8load

    nan = {**stored_of(name), scale: with_one_nan(stored_of(name)[scale])}
    ckpt = fp8load.open(write_checkpoint(FOLDER / name, tmp_path / "nan", nan))

    assert facts_about(ckpt.verify(level="scales"), scale)
    assert not any(tensor.isnan().any() for tensor in ckpt.plan().load(device="cpu").tensors.values())


@pytest.mark.parametrize("name", [name for name in NAMES if config_of(FOLDER / name)["tie_word_embeddings"]])
def test_a_tied_head_that_is_stored_once_more_is_no_fault(name, tmp_path):
    import fp8load

    twice = {**stored_of(name), "lm_head.weight": stored_of(name)["model.embed_tokens.weight"]}
    ckpt = fp8load.open(write_checkpoint(FOLDER / name, tmp_path / "twice", twice))

    assert ckpt.verify(level="scales").ok
    assert ckpt.plan().load(device="cpu")


def is_read(name: str, tensor: str) -> bool:
    """quanto stores scales of activations that are not quantized: nobody misses those."""
    return not (name.startswith("quanto") and tensor.endswith(("input_scale", "output_scale")))


@pytest.mark.parametrize("name", [*oracle.microscaling.NAMES, *oracle.mixtures.NAMES])
def test_every_tensor_that_is_removed_from_four_bits_or_experts_is_named_and_load_refuses(name, tmp_path):
    import fp8load

    stored = tensors(FOLDER / name)
    for number, gone in enumerate(key for key in stored if is_read(name, key)):
        rest = {key: content for key, content in stored.items() if key != gone}
        folder = write_checkpoint(FOLDER / name, tmp_path / str(number), rest)
        report = fp8load.open(folder).verify("headers")
        assert not report.ok, gone
        assert any(gone in finding.tensors for finding in report.findings), gone
        with pytest.raises(fp8load.Fp8LoadError) as caught:
            fp8load.load(folder)
        assert gone in str(caught.value), gone
