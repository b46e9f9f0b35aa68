"""A skeleton as real files: true headers, and data that is a hole in the file. For benchmarks and demonstrations."""

from __future__ import annotations

import json
from pathlib import Path

from fp8load.errors import Problem, UsageError
from fp8load.index.configs import MAIN_INDEX
from fp8load.index.index import Index, TensorMeta
from fp8load.index.layout import encode_header


def write_sparse_checkpoint(index: Index, folder: Path) -> None:
    """Write the files that `index` describes into `folder`: headers, configs, index.json where there are several files.

    Data reads as zeros and takes no space on file systems with sparse files: DeepSeek-V3 needs 20 MB. Offsets are those
    of `index`. Raises UsageError USE003 rather than overwrite a file.
    """
    by_file: dict[str, list[TensorMeta]] = {name: [] for name in index.files}
    for meta in index.tensors.values():
        by_file[meta.file].append(meta)
    for name, tensors in by_file.items():
        file = index.files[name]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = encode_header(tensors, file.header_nbytes, file.metadata)
        try:
            with path.open("xb") as stream:
                stream.write(header)
                stream.truncate(file.nbytes)
        except FileExistsError as error:
            raise UsageError(Problem(code="USE003", message="the file exists already; nothing is overwritten",
                                     file=str(path), expected="an empty folder")) from error  # fmt: skip
    for name, config in index.configs.items():
        (folder / name).write_text(json.dumps(config, indent=2), encoding="utf-8")
    if len(by_file) > 1:
        weight_map = {meta.name: meta.file for meta in index.tensors.values()}
        document = {"metadata": {"total_size": index.nbytes}, "weight_map": weight_map}
        (folder / MAIN_INDEX).write_text(json.dumps(document, indent=2), encoding="utf-8")
