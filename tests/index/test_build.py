"""From files to an index: what the index and the shards say is compared both ways, and every fault is a problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8load.errors import AccessError, HeaderError, NotFoundError, Problem, raise_first
from fp8load.index.build import build_index
from fp8load.index.index import Index
from fp8load.index.layout import Entry, encode_header, lay_out
from fp8load.index.skeleton import parse_skeleton, tensors_of
from fp8load.index.sparse import write_sparse_checkpoint
from fp8load.source.base import SourceInfo
from fp8load.source.local import LocalSource
from fp8load.source.memory import MemorySource

S1, S2, S3 = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
INDEX = "model.safetensors.index.json"
SKELETON = f"""
config {{"model_type": "llama"}}
l.{{0..1}}.q.weight        F8_E4M3 [8, 8] @ {S1}
l.{{0..1}}.q.weight_scale  F32     [1]    @ {S1}
l.{{0..1}}.o.weight        F8_E4M3 [8, 8] @ {S2}
norm.weight                BF16    [8]    @ {S3}
"""


def shard(text: str) -> bytes:
    """A file from skeleton lines."""
    index = parse_skeleton(text)
    (file,) = index.files.values()
    return encode_header(index.tensors.values(), file.header_nbytes, file.metadata).ljust(file.nbytes, b"\0")


@pytest.fixture
def files() -> dict[str, bytes]:
    """A sound checkpoint of three shards, in memory."""
    index = parse_skeleton(SKELETON)
    result = {INDEX: json.dumps({"metadata": {"total_size": index.nbytes}, "weight_map": index.declared}).encode()}
    result |= {name: json.dumps(config).encode() for name, config in index.configs.items()}
    for name, meta in index.files.items():
        tensors = [tensor for tensor in index.tensors.values() if tensor.file == name]
        result[name] = encode_header(tensors, meta.header_nbytes, meta.metadata).ljust(meta.nbytes, b"\0")
    return result


def build(files: dict[str, bytes]) -> Index:
    return build_index(MemorySource(files))


def only_problem(files: dict[str, bytes]) -> Problem:
    (problem,) = build(files).problems
    return problem


def with_map(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The files with entries of weight_map changed, or removed where the new value is None."""
    document = json.loads(files[INDEX])
    for name, file in changes.items():
        document["weight_map"][name.replace("__", ".")] = file
    document["weight_map"] = {name: file for name, file in document["weight_map"].items() if file is not None}
    return files | {INDEX: json.dumps(document).encode()}


def test_a_sound_checkpoint_has_no_problems(files: dict[str, bytes]) -> None:
    index = build(files)
    expected = parse_skeleton(SKELETON)
    assert index.problems == ()
    assert tensors_of(index) == tensors_of(expected)
    assert dict(index.tensors) == dict(expected.tensors)
    assert index.files == expected.files
    assert (index.declared, index.total_size) == (expected.declared, expected.nbytes)
    assert index.config == {"model_type": "llama"}
    assert index.strays == {}


def test_a_missing_shard_is_named_with_its_tensors(files: dict[str, bytes]) -> None:
    del files[S1]
    problem = only_problem(files)
    assert (problem.code, problem.file, problem.tensor) == ("F8L003", S1, "l.0.q.weight")
    assert "4 tensors" in problem.expected
    assert problem.refuses


def test_a_tensor_that_its_shard_lacks_is_named_with_the_shard_that_has_it(files: dict[str, bytes]) -> None:
    problem = only_problem(with_map(files, norm__weight=S1))
    assert (problem.code, problem.tensor, problem.file) == ("F8L004", "norm.weight", S1)
    assert S3 in problem.got


def test_tensors_that_no_shard_has_are_named_one_by_one(files: dict[str, bytes]) -> None:
    problems = build(with_map(files, l__0__x=S1, l__1__x=S2)).problems
    assert [(problem.code, problem.tensor, problem.file) for problem in problems] == [
        ("F8L004", "l.0.x", S1), ("F8L004", "l.1.x", S2)
    ]  # fmt: skip
    assert {problem.got for problem in problems} == {"it is in no shard"}
    assert len({problem.message for problem in problems}) == 1, "equal problems fold"


def test_a_broken_shard_is_one_problem_and_not_one_for_each_of_its_tensors(files: dict[str, bytes]) -> None:
    files[S1] = files[S1][:-3]
    problem = only_problem(files)
    assert (problem.code, problem.file, problem.tensor) == ("F8L001", S1, "l.1.q.weight_scale")


def test_a_tensor_without_an_entry_is_named_and_kept(files: dict[str, bytes]) -> None:
    index = build(with_map(files, norm__weight=None))
    (problem,) = index.problems
    assert (problem.code, problem.tensor, problem.severity) == ("F8L005", "norm.weight", "warning")
    assert S3 in index.strays  # no entry points to the file at all


def test_an_unindexed_tensor_in_an_indexed_shard_is_a_warning(files: dict[str, bytes]) -> None:
    index = build(with_map(files, l__1__q__weight_scale=None))
    (problem,) = index.problems
    assert (problem.code, problem.tensor, problem.file) == ("F8L005", "l.1.q.weight_scale", S1)
    assert not problem.refuses
    assert "l.1.q.weight_scale" in index.tensors


def test_a_tensor_in_two_shards_is_an_error_that_names_both(files: dict[str, bytes]) -> None:
    files[S3] = shard("norm.weight BF16 [8]\nl.0.q.weight BF16 [8, 8]")
    index = build(files)
    (problem,) = index.problems
    assert (problem.code, problem.tensor, problem.file) == ("F8L005", "l.0.q.weight", S3)
    assert S1 in problem.expected
    assert "F8_E4M3 [8, 8], indexed" in problem.expected
    assert "BF16 [8, 8]" in problem.got
    assert problem.refuses
    assert index.tensors["l.0.q.weight"].file == S1
    assert [meta.file for meta in index.duplicates["l.0.q.weight"]] == [S3]


def test_of_two_places_the_one_that_the_index_gives_is_kept(files: dict[str, bytes]) -> None:
    files[S3] = shard("norm.weight BF16 [8]\nl.0.q.weight F8_E4M3 [8, 8]")
    index = build(with_map(files, l__0__q__weight=S3))
    assert index.tensors["l.0.q.weight"].file == S3
    assert [problem.code for problem in index.problems] == ["F8L005"]


def test_a_second_copy_of_the_weights_is_one_warning(files: dict[str, bytes]) -> None:
    files["consolidated.00.safetensors"] = shard("layers.{0..1}.wq F8_E4M3 [8, 8]")
    files["consolidated.01.safetensors"] = shard("layers.{0..1}.wo F8_E4M3 [8, 8]")
    index = build(files)
    (problem,) = index.problems
    assert (problem.code, problem.severity, problem.refuses) == ("F8L006", "warning", False)
    assert problem.file == "consolidated.00.safetensors"
    assert "and 1 more: 4 tensors" in problem.got
    assert set(index.strays) == {"consolidated.00.safetensors", "consolidated.01.safetensors"}
    assert "layers.0.wq" not in index.tensors


def test_an_index_of_another_export_is_named_and_the_only_copy_is_no_second_one(files: dict[str, bytes]) -> None:
    index_json = json.loads(files[INDEX])
    old = {name: f"old-{file}" for name, file in index_json["weight_map"].items()}
    files[INDEX] = json.dumps({"weight_map": old}).encode()

    problems = build(files).problems

    assert {problem.code for problem in problems} == {"F8L003"}
    assert problems[0].message == "the index is of another export: it needs a shard that is not here"
    assert problems[0].got == f"no such file; {problems[0].tensor} lies in {problems[0].file.removeprefix('old-')}"


def test_a_small_stray_file_is_reported_tensor_by_tensor(files: dict[str, bytes]) -> None:
    files["extra.safetensors"] = shard("mtp.w BF16 [2]\nnorm.weight F32 [8]")
    problems = {problem.tensor: problem for problem in build(files).problems}
    assert {problem.code for problem in problems.values()} == {"F8L005"}
    assert problems["mtp.w"].severity == "warning"
    assert problems["norm.weight"].severity == "error"
    assert S3 in problems["norm.weight"].expected


def test_a_broken_stray_file_does_not_stop_loading(files: dict[str, bytes]) -> None:
    files["junk.safetensors"] = b"<!DOCTYPE html>" + bytes(50)
    problem = only_problem(files)
    assert (problem.code, problem.file, problem.refuses) == ("F8L002", "junk.safetensors", False)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../secret.safetensors", "a/../../x.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "~/x.safetensors", "", "a//b.safetensors", "./x.safetensors", "x\n.safetensors"],
)  # fmt: skip
def test_an_index_that_points_outside_the_folder_is_refused_and_nothing_is_opened(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "deep" / "checkpoint"
    folder.mkdir(parents=True)
    for file, data in with_map(files, norm__weight=name).items():
        (folder / file).write_bytes(data)
    opened: list[str] = []

    class Watched(LocalSource):
        def read(self, file: str, begin: int, end: int) -> bytes:
            opened.append(file)
            return super().read(file, begin, end)

        def size(self, file: str) -> int:
            opened.append(file)
            return super().size(file)

    problems = build_index(Watched(folder)).problems
    assert (problems[0].code, problems[0].tensor, problems[0].refuses) == ("F8L003", "norm.weight", True)
    assert problems[0].got == repr(name)
    assert name not in opened


def test_shards_in_a_subfolder_that_the_index_names_are_read(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    document = json.loads(files[INDEX])
    document["weight_map"] = {name: f"shards/{file}" for name, file in document["weight_map"].items()}
    for name, data in files.items():
        (tmp_path / (f"shards/{name}" if name.startswith("model-") else name)).write_bytes(data)
    (tmp_path / INDEX).write_text(json.dumps(document))
    index = build_index(LocalSource(tmp_path))
    assert index.problems == ()
    assert len(index.tensors) == 7


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": {}}', "names no tensor"),
        (b'{"weight_map": ["a"]}', "no weight_map"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "twice"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_an_index_that_is_no_map_is_refused_and_the_headers_are_read_all_the_same(
    files: dict[str, bytes], document: bytes, message: str
) -> None:
    index = build(files | {INDEX: document})
    (problem,) = index.problems
    assert (problem.code, problem.file, problem.refuses) == ("F8L003", INDEX, True)
    assert message in problem.message
    assert problem.got
    assert len(index.tensors) == 7
    assert index.declared is None


def test_an_entry_that_is_no_file_name_is_named(files: dict[str, bytes]) -> None:
    problems = build(with_map(files, norm__weight=[S3])).problems
    assert (problems[0].code, problems[0].tensor) == ("F8L003", "norm.weight")
    assert "list" in problems[0].got


@pytest.mark.parametrize(
    ("value", "expected"), [(12, 12), (12.0, 12), ("12", None), (None, None), (float("inf"), None)]
)
def test_total_size_is_kept_where_it_is_a_number(files: dict[str, bytes], value: Any, expected: int | None) -> None:
    document = json.loads(files[INDEX]) | {"metadata": {"total_size": value}}
    assert build(files | {INDEX: json.dumps(document).encode()}).total_size == expected


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json", "quant_model_description.json", "params.json"])
@pytest.mark.parametrize("data", [b"{", b"[1]", b"", b'{"a": 1, "a": 2}', b"\xff\xfe\xfd"])
def test_a_broken_config_file_is_named_and_refuses(files: dict[str, bytes], name: str, data: bytes) -> None:
    index = build(files | {name: data})
    (problem,) = index.problems
    assert (problem.code, problem.file, problem.refuses) == ("F8L110", name, True)
    assert name not in index.configs


def test_a_broken_generation_config_is_a_warning(files: dict[str, bytes]) -> None:
    problem = only_problem(files | {"generation_config.json": b"{"})
    assert (problem.severity, problem.refuses) == ("warning", False)


def test_all_known_config_files_are_parsed_and_no_others(files: dict[str, bytes]) -> None:
    names = ["hf_quant_config.json", "quantization_config.json", "params.json", "quant_model_description.json",
             "quanto_qmap.json", "generation_config.json", "tokenizer.json"]  # fmt: skip
    index = build(files | dict.fromkeys(names, b'{"x": 1}'))
    assert set(index.configs) == {"config.json", *names} - {"tokenizer.json"}


def test_without_an_index_all_model_files_are_the_checkpoint_and_two_copies_of_a_name_clash(
    files: dict[str, bytes],
) -> None:
    del files[INDEX]
    assert len(build(files).tensors) == 7
    files["model-extra.safetensors"] = shard("norm.weight F32 [8]")
    problem = only_problem(files)
    assert (problem.code, problem.tensor) == ("F8L005", "norm.weight")
    assert problem.file != problem.expected
    assert problem.refuses


def test_without_an_index_and_without_model_files_every_safetensors_file_counts() -> None:
    index = build({f"consolidated-{i}.safetensors": shard(f"layers.{i}.wq BF16 [4]") for i in range(3)})
    assert len(index.tensors) == 3
    assert index.strays == {}


def test_a_folder_without_safetensors_says_what_is_there() -> None:
    with pytest.raises(NotFoundError) as caught:
        build({"pytorch_model.bin": b"", "config.json": b"{}"})
    assert caught.value.code == "SRC008"
    assert "pytorch_model.bin" in caught.value.got
    assert "convert" in caught.value.hint


def test_a_dangling_link_is_a_broken_cache(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / S2).unlink()
    (tmp_path / S2).symlink_to("../../blobs/0123abc")
    (problem,) = build_index(LocalSource(tmp_path)).problems
    assert (problem.code, problem.file) == ("F8L010", S2)
    assert "blobs/0123abc" in problem.got


def test_a_dangling_link_in_place_of_a_config_is_a_broken_cache(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("../../blobs/0123abc")
    (problem,) = build_index(LocalSource(tmp_path)).problems
    assert (problem.code, problem.file, problem.refuses) == ("F8L010", "config.json", True)


def test_headers_are_read_in_parallel_where_the_source_asks_for_it(files: dict[str, bytes]) -> None:
    class Slow(MemorySource):
        parallel_reads = 8

    parallel, sequential = build_index(Slow(files)), build(files)
    assert list(parallel.tensors.items()) == list(sequential.tensors.items())


def test_a_source_that_cannot_answer_raises_and_is_no_finding(files: dict[str, bytes]) -> None:
    class Refusing(MemorySource):
        info = SourceInfo(kind="memory", id="refusing")

        def read(self, file: str, begin: int, end: int) -> bytes:
            if file == S2:
                raise AccessError(Problem(code="SRC003", message="no", file=file))
            return super().read(file, begin, end)

    with pytest.raises(AccessError):
        build_index(Refusing(files))


def test_the_first_refusing_problem_is_raised_with_the_number_of_others(files: dict[str, bytes]) -> None:
    with pytest.raises(HeaderError, match="1 more"):
        raise_first(build(with_map(files, l__0__x=S1, l__1__x=S2)).problems)


def test_a_sparse_checkpoint_is_read_back_as_the_index_it_was_written_from(tmp_path: Path) -> None:
    index = parse_skeleton(SKELETON)
    write_sparse_checkpoint(index, tmp_path)
    read = build_index(LocalSource(tmp_path))
    assert read.problems == ()
    assert dict(read.tensors) == dict(index.tensors)
    assert read.files == index.files
    assert (read.declared, read.total_size, read.configs) == (index.declared, index.total_size, index.configs)
    with pytest.raises(Exception, match="nothing is overwritten"):
        write_sparse_checkpoint(index, tmp_path)


def test_every_real_checkpoint_is_read_without_a_problem(checkpoint: Path) -> None:
    index = build_index(LocalSource(checkpoint))
    assert index.problems == ()
    assert index.tensors


def test_lay_out_and_header_agree() -> None:
    from fp8load.dtypes import DType
    from fp8load.index.header import parse_header

    meta, tensors = lay_out("x.safetensors", [Entry("a", DType.F4, (3, 2)), Entry("b", DType.F32, ())])
    raw = encode_header(tensors, meta.header_nbytes, meta.metadata)
    assert parse_header("x.safetensors", raw[8:], meta.nbytes).tensors == tuple(tensors)
