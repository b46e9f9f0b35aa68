"""F8C001: a single file has scales and no marker, a marker and no scales, or markers of two dialects."""

from collections.abc import Iterator

from fp8load.errors import Problem, Severity
from fp8load.formats.inside import MARKER_KEY, is_marker
from fp8load.index.embedded import MARKERS, METADATA
from fp8load.index.index import Index
from fp8load.rules.base import Context, Example, Rule

SCALES = ("weight_scale", "scale_weight")
"""What stands behind a layer's name, in the new dialect and in the old one."""

LAYER = "a.weight F8_E4M3 [256, 256]\n"
OLD = "scaled_fp8 F8_E4M3 [1]\n"


def check(context: Context) -> Iterator[Problem]:
    """Files without any configuration beside them, as ComfyUI reads them."""
    index = context.checkpoint.index
    if index.configs or index.declared is not None:
        return
    layers = [name.removesuffix(".weight") for name, meta in index.tensors.items()
              if name.endswith(".weight") and meta.dtype.is_fp8]  # fmt: skip
    scaled = {suffix: [layer for layer in layers if f"{layer}.{suffix}" in index.tensors] for suffix in SCALES}
    is_new = METADATA in index.embedded or MARKERS in index.embedded
    old_marker = next(filter(is_marker, index.tensors), "")
    file = next(iter(index.files), "")
    num_scaled = sum(map(len, scaled.values()))
    if num_scaled and not is_new and not old_marker:
        yield _problem("scales and no marker that says so", file, _marker(), f"scales of FP8 layers: {num_scaled:,}",
                       "ComfyUI takes the codes for numbers, without a message: add the marker")  # fmt: skip
    if (is_new and scaled["scale_weight"]) or (old_marker and scaled["weight_scale"]) or (is_new and old_marker):
        yield _problem("the markers or scales of two dialects", file, "scaled_fp8 and scale_weight, or comfy_quant and "
                       "weight_scale", _both(index, old_marker), "readers of one lose the layers of the other: convert "
                       "the file as a whole")  # fmt: skip
    if layers and not num_scaled and (is_new or old_marker):
        yield _problem("a marker and no scales", file, "a scale beside each layer",
                       f"FP8 layers without one: {len(layers):,}", "lost? a raw cast has no marker")  # fmt: skip


def _marker() -> str:
    return f"{MARKER_KEY}, *.comfy_quant, or _quantization_metadata in the header"


def _both(index: Index, old_marker: str) -> str:
    kinds = [kind for kind in (METADATA, MARKERS) if kind in index.embedded]
    kinds += [old_marker] if old_marker else []
    suffixes = [suffix for suffix in SCALES if any(name.endswith(f".{suffix}") for name in index.tensors)]
    return ", ".join([*kinds, *suffixes])


def _problem(message: str, file: str, expected: str, got: str, hint: str) -> Problem:
    return Problem(code="F8C001", message=f"the file has {message}", file=file, expected=expected, got=got, hint=hint,
                   severity=Severity.ERROR, refuses=False)  # fmt: skip


RULE = Rule(
    code="F8C001",
    name="comfy-marker",
    level="headers",
    severity=Severity.ERROR,
    what="A single file whose FP8 layers have scales says so inside: by a tensor scaled_fp8, by a tensor X.comfy_quant "
         "for each layer, or in its header. Not in two of these dialects, and not without scales.",
    why="ComfyUI looks for the marker. Without one it takes the codes for the weights, hundreds of times too large, "
        "and the picture is noise.",
    fix="Write the marker of the dialect that the scales are in.",
    check=check,
    examples=(
        Example(title="scales, and no marker", skeleton=LAYER + "a.weight_scale F32 []\n", count=1),
        Example(title="a marker, and no scales", skeleton=OLD + LAYER, count=1),
        Example(title="an old marker, and scales of the new dialect", count=1,
                skeleton=OLD + LAYER + "a.weight_scale F32 []\n"),
        Example(title="the old dialect", skeleton=OLD + LAYER + "a.scale_weight F32 []\n", count=0),
        Example(title="a raw cast", skeleton=LAYER, count=0),
    ),
)  # fmt: skip
