"""One safetensors header: every fault is refused by name, and the real library agrees with what is accepted."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fp8load.dtypes import BITS, ON_DISK, DType
from fp8load.errors import HeaderError, Problem
from fp8load.index.header import HEADER_CAP, Header, read_header

FILE = "model-00001-of-00002.safetensors"
NAME = "model.layers.0.self_attn.q_proj.weight"


def file_bytes(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str = "F8_E4M3", shape: Any = (2, 4), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def parse(data: bytes) -> Header:
    return read_header(FILE, len(data), lambda begin, end: data[begin:end])


def fault(data: bytes) -> Problem:
    with pytest.raises(HeaderError) as caught:
        parse(data)
    problem = caught.value.problem
    assert problem.file == FILE
    assert FILE in str(caught.value)
    assert problem.expected
    assert problem.got
    return problem


NOT_A_FILE = {
    "an empty file": (b"", "empty"),
    "a file of four bytes": (b"\x00\x01\x02\x03", "too short"),
    "a git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4998\n", "git-LFS"),
    "an HTML page": (b"<!DOCTYPE html><html><head><title>Log in</title></head></html>", "web page"),
    "an HTML page in capitals": (b"\n <HTML><body>404</body></HTML>", "web page"),
    "a JSON error": (b'{"error":"Invalid username or password."}', "error message"),
    "a length above the cap": (struct.pack("<Q", HEADER_CAP + 1) + b"{" * 64, "limit"),
    "a header that is not UTF-8": (file_bytes(b'{"a\xff":1}'), "UTF-8"),
    "a header that is a list": (file_bytes(b"[1, 2]"), "begin with"),
    "a header with a space first": (file_bytes(b" {}"), "begin with"),
    "a header cut in the middle": (file_bytes(b'{"a":'), "JSON"),
    "a header with NaN": (file_bytes(b'{"__metadata__":{"a":NaN}}'), "JSON"),
    "half of a surrogate pair": (file_bytes(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "JSON"),
    "a header nested too deeply": (file_bytes(b'{"a":' * 100_000), "JSON"),
}


@pytest.mark.parametrize("what", NOT_A_FILE)
def test_what_is_not_a_safetensors_file_is_called_what_it_is(what: str) -> None:
    data, message = NOT_A_FILE[what]
    problem = fault(data)
    assert problem.code == "F8L002"
    assert message in problem.message


ENTRIES = {
    "an unknown dtype": ("F8L008", entry("F8_E9M9"), "F8_E4M3", "F8_E9M9"),
    "a dtype that is no text": ("F8L008", {**entry(), "dtype": [1]}, "F8_E4M3", "[1]"),
    "no shape": ("F8L011", {"dtype": "U8", "data_offsets": [0, 8]}, "dtype, shape and data_offsets", "U8"),
    "a key too many": ("F8L011", {**entry(), "stride": 1}, "dtype, shape and data_offsets", "stride"),
    "no object": ("F8L011", 5, "dtype, shape and data_offsets", "5"),
    "a shape that is no list": ("F8L011", {**entry(), "shape": 8}, "shape: list", "8"),
    "a negative size": ("F8L011", entry(shape=[-2, 4]), "integers >= 0", "[-2, 4]"),
    "a size that is a float": ("F8L011", entry(shape=[2.0, 4]), "integers >= 0", "[2.0, 4]"),
    "a size that is true": ("F8L011", entry(shape=[True, 8]), "integers >= 0", "[True, 8]"),
    "three offsets": ("F8L011", entry(offsets=[0, 4, 8]), "two integers", "[0, 4, 8]"),
    "offsets backwards": ("F8L011", entry(offsets=[8, 0]), "0 <= begin <= end", "[8, 0]"),
    "negative offsets": ("F8L011", entry(offsets=[-8, 0]), "0 <= begin <= end", "[-8, 0]"),
    "offsets that are text": ("F8L011", entry(offsets=["0", "8"]), "0 <= begin <= end", "['0', '8']"),
    "a shape that overflows": ("F8L011", entry(shape=[2**40, 2**40]), "fewer than", str(2**40)),
    "an overflow hidden by a zero": ("F8L011", entry(shape=[2**40, 2**40, 0], offsets=[0, 0]), "fewer than", "0]"),
    "a size beyond 64 bits": ("F8L011", entry(shape=[0, 2**70], offsets=[0, 0]), "fewer than", str(2**70)),
    "bytes against shape": ("F8L011", entry(shape=[2, 5]), "10 bytes for F8_E4M3 [2, 5]", "8 bytes"),
    "F32 counted as F8": ("F8L011", entry("F32"), "32 bytes for F32 [2, 4]", "8 bytes"),
    "F4 counted as bytes": ("F8L011", entry("F4"), "4 bytes for F4 [2, 4]", "8 bytes"),
    "F4 that does not fill a byte": ("F8L011", entry("F4", [3], [0, 2]), "1 and 4/8 bytes", "2 bytes"),
    "F6 that does not fill a byte": ("F8L011", entry("F6_E3M2", [3], [0, 2]), "2 and 2/8 bytes", "2 bytes"),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_tensor_with_a_wrong_entry_is_named(what: str) -> None:
    code, wrong, expected, got = ENTRIES[what]
    problem = fault(file_bytes({"fine": entry("U8", [0], [0, 0]), NAME: wrong}, bytes(8)))
    assert (problem.code, problem.tensor) == (code, NAME)
    assert expected in problem.expected
    assert got in problem.got


def test_a_tensor_that_overlaps_the_one_before_is_named() -> None:
    problem = fault(file_bytes({"a": entry(), NAME: entry(offsets=[4, 12])}, bytes(12)))
    assert (problem.code, problem.tensor) == ("F8L011", NAME)
    assert "overlaps" in problem.message
    assert "where a ends" in problem.expected


def test_a_hole_before_a_tensor_is_named() -> None:
    problem = fault(file_bytes({"a": entry(), NAME: entry(offsets=[9, 17])}, bytes(17)))
    assert (problem.code, problem.tensor) == ("F8L011", NAME)
    assert "hole" in problem.message


def test_a_file_cut_in_its_header_says_how_much_is_missing() -> None:
    data = file_bytes({NAME: entry()}, bytes(8))
    problem = fault(data[:40])
    assert problem.code == "F8L001"
    assert "40 bytes" in problem.got


@pytest.mark.parametrize("num_lost", [1, 8, 9, 16])
def test_a_file_cut_in_its_data_names_the_first_tensor_that_is_cut(num_lost: int) -> None:
    data = file_bytes({"a": entry(), NAME: entry(offsets=[8, 16])}, bytes(16))
    problem = fault(data[:-num_lost])
    assert problem.code == "F8L001"
    assert problem.tensor == (NAME if num_lost <= 8 else "a")
    assert f"{len(data):,} bytes" in problem.expected


def test_bytes_after_the_last_tensor_are_a_problem_of_a_readable_header() -> None:
    (problem,) = parse(file_bytes({NAME: entry()}, bytes(11))).problems
    assert (problem.code, problem.tensor, problem.file) == ("F8L011", NAME, FILE)
    assert problem.severity == "warning"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":1,"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"a":"1","a":"2"}}',
        b'{"__metadata__":null,"__metadata__":{}}',
    ],
)
def test_the_same_key_twice_is_refused(raw: bytes) -> None:
    problem = fault(file_bytes(raw))
    assert problem.code == "F8L011"
    assert "twice" in problem.message


def test_colons_in_names_are_not_mistaken_for_a_second_key() -> None:
    names = ["a:b", "c\\:", '":', "d::e"]
    header = parse(file_bytes({name: entry("U8", [0], [0, 0]) for name in names}))
    assert {meta.name for meta in header.tensors} == set(names)


def test_metadata_that_is_no_map_of_strings_is_a_harmless_problem() -> None:
    header = parse(file_bytes({"__metadata__": {"a": 1}, NAME: entry()}, bytes(8)))
    assert [problem.code for problem in header.problems] == ["F8L007"]
    assert not header.problems[0].refuses
    assert len(header.tensors) == 1


@pytest.mark.parametrize("dtype", sorted(ON_DISK))
def test_every_dtype_counts_its_bits(dtype: DType) -> None:
    num_bytes = 24 * BITS[dtype] // 8
    header = parse(file_bytes({NAME: entry(dtype.value, [4, 6], [0, num_bytes])}, bytes(num_bytes)))
    (meta,) = header.tensors
    assert (meta.dtype, meta.shape, meta.nbytes, meta.begin) == (dtype, (4, 6), num_bytes, header.nbytes)


def test_a_long_header_is_read_with_two_reads_and_a_short_one_with_one() -> None:
    data = file_bytes({f"{NAME}.{i}": entry("U8", [0], [0, 0]) for i in range(1000)})
    reads: list[tuple[int, int]] = []

    def read(begin: int, end: int) -> bytes:
        reads.append((begin, end))
        return data[begin:end]

    assert len(read_header(FILE, len(data), read).tensors) == 1000
    assert reads == [(0, 65536), (65536, len(data))]
    reads.clear()
    read_header(FILE, len(data), read, first_read=1 << 20)
    assert reads == [(0, len(data))]


def test_a_source_that_stops_in_the_header_is_a_fault() -> None:
    data = file_bytes({f"{NAME}.{i}": entry("U8", [0], [0, 0]) for i in range(1000)})
    with pytest.raises(HeaderError) as caught:
        read_header(FILE, len(data), lambda begin, end: data[begin:end] if begin == 0 else b"")
    assert caught.value.code == "F8L001"


arrays = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(["u1", "i1", "f2", "f4", "f8", "i8", "?"]), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


@given(
    arrays,
    st.none()
    | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.text("ab:{", max_size=4), max_size=3
    ),
)
def test_whatever_the_library_writes_is_read_the_same(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    written = {name: np.zeros(shape, dtype=kind) for name, (kind, shape) in tensors.items()}
    if not written and metadata == {}:
        metadata = None  # safetensors 0.8.0 then writes `{},"__metadata__":{}}`, which is no JSON
    data = save(written, metadata)
    header = parse(data)
    assert header.problems == ()
    assert header.metadata == (metadata or {})
    theirs = dict(safetensors.deserialize(data))
    assert {meta.name: (meta.dtype.value, list(meta.shape)) for meta in header.tensors} == {
        name: (spec["dtype"], spec["shape"]) for name, spec in theirs.items()
    }
    assert all(data[meta.begin : meta.end] == bytes(theirs[meta.name]["data"]) for meta in header.tensors)


json_values = st.sampled_from(
    [0, 1, 4, 8, 16, -1, 2**63, 2**64, 1.0, True, None, "8", [], "F4", "U8", "F8_E4M3", "F99"]
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F4", "F6_E2M3", "F32", "F8_E8M0"]) | json_values,
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 8]) | json_values, max_size=3) | json_values,
        "data_offsets": st.tuples(st.sampled_from([0, 4, 8]), st.sampled_from([0, 4, 8, 16])).map(list) | json_values,
    }
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from("abc"), entries | json_values, max_size=3), st.binary(max_size=16), st.booleans()
)
def test_whatever_is_accepted_without_a_problem_the_library_accepts(
    document: dict[str, Any], data: bytes, has_metadata: bool
) -> None:
    whole = file_bytes(({"__metadata__": {"format": "pt"}} if has_metadata else {}) | document, data)
    try:
        header = parse(whole)
    except HeaderError as error:
        assert error.problem.file == FILE
        return
    if header.problems:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(whole)
        with safetensors.safe_open(path, framework="numpy") as opened:
            assert set(opened.keys()) == {meta.name for meta in header.tensors}


@pytest.mark.parametrize("shape", [[10**10, "x" * 100], [2**63, "8"], [4, None], [4, [1]], [True, 2]])
def test_a_dimension_that_is_no_number_is_never_multiplied(shape: list[Any]) -> None:
    """A string times a large number would fill the memory."""
    assert fault(file_bytes({NAME: entry("U8", shape, (0, 8))}, bytes(8))).code == "F8L011"


@pytest.mark.parametrize(("size", "code"), [(2**60, "F8L011"), (2**60 - 1, "F8L001")])
def test_sixty_three_bits_are_the_first_that_are_too_many(size: int, code: str) -> None:
    assert fault(file_bytes({NAME: entry("U8", [size], (0, size))}, b"")).code == code


@pytest.mark.parametrize("at", [0, 8])
def test_an_empty_tensor_may_be_named_after_the_one_that_begins_where_it_lies(at: int) -> None:
    whole = file_bytes({"full": entry("U8", [8], (0, 8)), "empty": entry("U8", [0], (at, at))}, bytes(8))

    assert parse(whole).problems == ()
