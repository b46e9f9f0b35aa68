"""The writer: whole or not at all, never in place, in bounded memory, and everything else as it was."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp8load
from counted import calls
from fp8load.dtypes import DType
from fp8load.errors import SourceError, UsageError
from fp8load.index.build import build_index
from fp8load.index.header import parse_header
from fp8load.index.index import TensorMeta
from fp8load.rules.samples import LLAMA
from fp8load.source.local import LocalSource
from fp8load.source.memory import MemorySource
from fp8load.writing.actions import Add, Convert, Drop, Edit, Omit, Rename, SetMetadata
from fp8load.writing.changes import changes_of
from fp8load.writing.document import edited
from fp8load.writing.folder import new_folder
from rules.examples import written

NORM = "model.norm.weight"
TWO = LLAMA.replace("[1024, 256]", "[1024, 256]  @ model-2.safetensors")
FILE, SECOND, INDEX = "model.safetensors", "model-2.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two files with an index, a tokenizer and a subfolder's worth of nothing."""
    path = tmp_path / "original"
    path.mkdir()
    files = written(TWO, {})
    for name, data in files.items():
        (path / name).write_bytes(data)
    tensors = build_index(MemorySource(files)).tensors
    total = sum(meta.nbytes for meta in tensors.values())
    weight_map = {meta.name: meta.file for meta in tensors.values()}
    (path / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
    )
    (path / "tokenizer.json").write_text("{}")
    return path


def changed(folder: Path, *actions):
    source = LocalSource(folder)
    return changes_of(source, build_index(source), actions)


def meta(folder: Path, name: str) -> TensorMeta:
    return build_index(LocalSource(folder)).tensors[name]


def test_a_file_that_does_not_change_is_a_link_and_json_a_copy(folder, tmp_path):
    changed(folder, Drop(meta(folder, NORM))).write(tmp_path / "new")

    assert (folder / SECOND).samefile(tmp_path / "new" / SECOND)
    assert not (folder / FILE).samefile(tmp_path / "new" / FILE)
    assert not (folder / "tokenizer.json").samefile(tmp_path / "new" / "tokenizer.json")


def test_where_links_cannot_be_made_the_file_is_copied(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("fp8load.writing.folder.os.link", refuse)
    changed(folder, Drop(meta(folder, NORM))).write(tmp_path / "new")

    assert (folder / SECOND).read_bytes() == (tmp_path / "new" / SECOND).read_bytes()


def test_a_source_that_is_no_disk_is_copied(folder, tmp_path):
    source = MemorySource({path.name: path.read_bytes() for path in folder.iterdir()})
    index = build_index(source)
    changes_of(source, index, [Drop(index.tensors[NORM])]).write(tmp_path / "new")

    assert (folder / SECOND).read_bytes() == (tmp_path / "new" / SECOND).read_bytes()


def test_the_index_follows_what_goes_comes_and_is_renamed(folder, tmp_path):
    new = TensorMeta("extra", DType.F32, (2,), FILE, 0, 8)
    norm, head = meta(folder, NORM), meta(folder, "lm_head.weight")
    changed(folder, Drop(norm), Rename(head, "head.weight"), Add(new, bytes(8), "new")).write(tmp_path / "new")
    before = json.loads((folder / INDEX).read_text())
    after = json.loads((tmp_path / "new" / INDEX).read_text())
    index = build_index(LocalSource(tmp_path / "new"))

    assert index.problems == ()
    assert after["weight_map"].keys() ^ before["weight_map"].keys() == {NORM, "lm_head.weight", "head.weight", "extra"}
    assert after["metadata"]["total_size"] == before["metadata"]["total_size"] - norm.nbytes + 8 == index.nbytes


def test_a_total_size_that_was_wrong_before_is_not_touched(folder, tmp_path):
    document = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(document | {"metadata": {"total_size": 7}}))
    changed(folder, Drop(meta(folder, NORM))).write(tmp_path / "new")

    assert json.loads((tmp_path / "new" / INDEX).read_text())["metadata"]["total_size"] == 7


def test_a_file_of_which_nothing_is_left_goes_too(folder, tmp_path):
    tensors = build_index(LocalSource(folder)).tensors.values()
    changed(folder, *(Drop(tensor) for tensor in tensors if tensor.file == SECOND)).write(tmp_path / "new")

    assert not (tmp_path / "new" / SECOND).exists()
    assert build_index(LocalSource(tmp_path / "new")).problems == ()


def test_a_shard_in_a_subfolder_comes_along(folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / SECOND).rename(folder / "sub" / SECOND)
    (folder / INDEX).write_text((folder / INDEX).read_text().replace(SECOND, f"sub/{SECOND}"))
    changed(folder, Drop(meta(folder, NORM)), Drop(meta(folder, "lm_head.weight"))).write(tmp_path / "new")
    index = build_index(LocalSource(tmp_path / "new"))

    assert index.problems == ()
    assert f"sub/{SECOND}" in index.files


def test_a_link_to_nothing_is_an_error_of_the_source(folder, tmp_path):
    (folder / "lost").symlink_to("nowhere")
    with pytest.raises(SourceError, match="lost"):
        changed(folder, Drop(meta(folder, NORM))).write(tmp_path / "new")

    assert list(tmp_path.iterdir()) == [folder]


def test_a_linked_file_of_a_cache_is_linked_to_what_it_points_to(folder, tmp_path):
    (folder / SECOND).rename(tmp_path / "blob")
    (folder / SECOND).symlink_to(tmp_path / "blob")
    changed(folder, Drop(meta(folder, NORM))).write(tmp_path / "new")

    assert not (tmp_path / "new" / SECOND).is_symlink()
    assert (tmp_path / "new" / SECOND).samefile(tmp_path / "blob")


def test_a_file_can_be_left_out_and_metadata_set(folder, tmp_path):
    changes = changed(
        folder, Omit("tokenizer.json"), SetMetadata(FILE, "format", None), SetMetadata(SECOND, "by", "me")
    )
    changes.write(tmp_path / "new")
    files = build_index(LocalSource(tmp_path / "new")).files

    assert not (tmp_path / "new" / "tokenizer.json").exists()
    assert (files[FILE].metadata, files[SECOND].metadata["by"]) == ({}, "me")
    assert "+++ /dev/null" in changes.diff()


def test_a_converted_tensor_that_would_move_others_off_their_alignment_sorts_the_file(folder, tmp_path):
    source = LocalSource(folder)
    weight = next(tensor for tensor in build_index(source).tensors.values() if tensor.dtype == "F8_E4M3")
    before = source.read(weight.file, weight.begin, weight.end)
    odd = TensorMeta("odd", DType.U8, (3,), FILE, 0, 3)
    last = TensorMeta("last", DType.F32, (1,), FILE, 0, 4)
    changed(folder, Add(odd, b"abc", ""), Add(last, bytes(4), "")).write(tmp_path / "new")
    data = (tmp_path / "new" / FILE).read_bytes()
    header = parse_header(FILE, data[8 : 8 + int.from_bytes(data[:8], "little")], len(data))
    new = {tensor.name: tensor for tensor in header.tensors}

    assert all(tensor.begin % max(tensor.dtype.bits // 8, 1) == 0 for tensor in header.tensors)
    assert data[new["odd"].begin : new["odd"].end] == b"abc"
    assert data[new[weight.name].begin : new[weight.name].end] == before


@pytest.mark.parametrize("kind", ["files", "file", "no parent", "leftover", "the original"])
def test_what_is_there_is_never_overwritten(folder, tmp_path, kind):
    out = tmp_path / "new"
    if kind == "files":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    elif kind == "no parent":
        out = tmp_path / "no" / "new"
    elif kind == "leftover":
        (tmp_path / "new.tmp").mkdir()
    else:
        out = folder
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError) as caught:
        changed(folder, Omit("tokenizer.json")).write(out)

    assert caught.value.code == "USE013"
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_written_to(folder, tmp_path):
    (tmp_path / "new").mkdir()
    changed(folder, Omit("tokenizer.json")).write(tmp_path / "new")

    assert (tmp_path / "new" / FILE).exists()


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="too full"), new_folder(tmp_path / "new", nbytes=1 << 62):
        pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_behind(folder, tmp_path, error):
    def fail(data):
        raise error

    action = Convert(meta(folder, NORM), DType.BF16, fail, "")
    with pytest.raises(error):
        changed(folder, action).write(tmp_path / "new")

    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_that_shrank_meanwhile_is_an_error_and_leaves_nothing(folder, tmp_path):
    changes = changed(folder, Drop(meta(folder, NORM)))
    with (folder / FILE).open("r+b") as file:
        file.truncate((folder / FILE).stat().st_size - 2000)
    with pytest.raises(SourceError, match="shorter than its header said"):
        changes.write(tmp_path / "new")

    assert list(tmp_path.iterdir()) == [folder]


def test_memory_is_bounded_by_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("fp8load.writing.shard.CHUNK", 1 << 16)
    folder = tmp_path / "original"
    folder.mkdir()
    big = "m.weight  BF16  [4096, 2048]\nm.norm.weight  BF16  [8]\n"
    (folder / FILE).write_bytes(written(big, {})[FILE])
    changes = changed(folder, Drop(meta(folder, "m.norm.weight")))
    tracemalloc.start()
    changes.write(tmp_path / "new")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2 << 20  # the tensor has 16 MiB


def test_any_chunk_gives_the_same_file(folder, tmp_path, monkeypatch):
    action = Convert(meta(folder, NORM), DType.F32, lambda data: data * 2, "twice as wide")
    changed(folder, action).write(tmp_path / "one")
    monkeypatch.setattr("fp8load.writing.shard.CHUNK", 64)
    changed(folder, action).write(tmp_path / "two")

    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "l": ["x"]}', '{\n    "l": ["x"],\n    "a": 1\n}\n', '{\n\t"l": [\n\t\t"x"\n\t], "a": "ü"\n}', "{}"],
)
def test_the_style_of_a_json_file_stays(text):
    after = edited(text, [Edit("f", ("l",), "append", "y")])

    assert json.loads(after) == {**json.loads(text), "l": [*json.loads(text).get("l", ()), "y"]}
    assert list(json.loads(after))[: len(json.loads(text))] == list(json.loads(text))
    assert after.endswith("\n") == text.endswith("\n")
    assert ("\n" in after.strip()) == ("\n" in text.strip())
    assert after.isascii() == text.isascii()
    assert ("\n    " in after) == ("\n    " in text)


KEYS = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(KEYS, min_size=1, max_size=2).map(tuple)


@given(PATHS, st.integers())
def test_what_is_set_can_be_removed_again(path, value):
    text = edited('{"z": {}}', [Edit("f", path, "set", value)])
    removed = json.loads(edited(text, [Edit("f", path, "remove")]))

    assert removed == ({"z": {}} if len(path) == 1 else {"z": {}, path[0]: {}})


def test_nothing_is_set_in_what_is_removed():
    edits = [Edit("f", ("q",), "remove"), Edit("f", ("q", "ignore"), "append", "x")]

    assert json.loads(edited('{"q": {"ignore": []}, "r": 1}', edits)) == {"r": 1}


def test_renaming_every_tensor_takes_as_long_as_there_are_tensors():
    """index.json gets a name removed and another one set for each; none is looked for among all that go."""

    def of(count: int) -> int:
        going = [Edit("f", ("weight_map", f"{i}.weight_packed"), "remove") for i in range(count)]
        coming = [Edit("f", ("weight_map", f"{i}.weight"), "set", "f") for i in range(count)]
        return calls(lambda: edited("{}", [*going, *coming]))

    assert of(400) < 4.5 * of(100)


def test_a_diff_of_odd_names_steers_no_terminal(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / FILE).write_bytes(written("m\\u001b[31m.weight  BF16  [8]\nm.b  BF16  [8]\n", {})[FILE])
    (name,) = [name for name in build_index(LocalSource(folder)).tensors if "31m" in name]
    text = changed(folder, Drop(meta(folder, name))).diff()

    assert "31m" in text
    assert "\x1b" not in text


def test_a_checkpoint_that_needs_nothing_has_no_changes():
    with fp8load.open("fixtures/checkpoints/ct-phi3-fp8-static-kv") as ckpt:
        assert ckpt.fix(level="weights").changes.is_empty
