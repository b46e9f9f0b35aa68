"""Files that change between the plan and the load, without changing their size."""

from __future__ import annotations

import pytest

from fp8load.source.memory import MemorySource
from oracle.catalog import FOLDER
from oracle.damage import stored_of
from oracle.rewrite import FILE, write_checkpoint, write_file

NAME = "ct-llama128-fp8-static"
Q, TWIN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def planned(tmp_path):
    import fp8load

    folder = write_checkpoint(FOLDER / NAME, tmp_path / "checkpoint", stored_of(NAME))
    return folder, fp8load.open(folder).plan()


def test_a_file_whose_tensors_changed_places_is_refused_by_tensor(planned):
    from fp8load.errors import ChangedError

    folder, plan = planned
    swapped = {{Q: TWIN, TWIN: Q}.get(name, name): tensor for name, tensor in stored_of(NAME).items()}
    write_file(folder / FILE, swapped)

    with pytest.raises(ChangedError) as caught:
        plan.load()
    assert FILE in str(caught.value)
    assert Q in str(caught.value) or TWIN in str(caught.value)


def test_a_header_that_became_garbage_is_refused_by_file(planned):
    from fp8load.errors import ChangedError

    folder, plan = planned
    data = bytearray((folder / FILE).read_bytes())
    data[8] = 0
    (folder / FILE).write_bytes(data)

    with pytest.raises(ChangedError, match=FILE):
        plan.load()


def test_a_header_of_another_length_is_refused_by_file(planned):
    from fp8load.errors import ChangedError

    folder, plan = planned
    data = (folder / FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    longer = (length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8 + data[8 + length : -8]
    (folder / FILE).write_bytes(longer)

    with pytest.raises(ChangedError, match=FILE):
        plan.load()


def test_the_same_tensors_written_again_are_loaded(planned):
    folder, plan = planned
    write_file(folder / FILE, stored_of(NAME))

    assert plan.load()


class _Short(MemorySource):
    """Gives one byte too few of every tensor: what a proxy that cuts a response does."""

    cut = False

    def read(self, file: str, begin: int, end: int) -> bytes:
        return super().read(file, begin, end - 1 if self.cut else end)


def test_a_source_that_gives_too_few_bytes_is_refused_by_file():
    from fp8load.checkpoint import Checkpoint
    from fp8load.errors import ChangedError
    from fp8load.index.build import build_index

    files = {path.name: path.read_bytes() for path in (FOLDER / NAME).iterdir() if path.is_file()}
    source = _Short(files)
    plan = Checkpoint(source, build_index(source)).plan()
    source.cut = True

    with pytest.raises(ChangedError, match=r"\.safetensors"):
        plan.load()
