"""`quant_method: compressed-tensors`: FP8, NVFP4, MXFP4, MXFP8 and W4AFP8; written by llm-compressor and auto-round.

Source: compressed-tensors `QuantizationConfig`, `QuantizationArgs` (0.10 to 0.20 seen). Groups name their targets by
full module name, `re:` and a regular expression matched from the start, or a class name ("Linear": every linear layer
that `ignore` does not list); names are stored ones, or a loaded model's (`fp8load.formats.in_memory`). All scales
multiply: `weight_scale` [1], [N, 1] or [ceil(N/bn), ceil(K/bk)], in the dtype of the original model (BF16 mostly);
`input_scale` [1] where activations are static; KV scales `self_attn.k_scale` [1].
NVFP4 and MXFP4 weights are `weight_packed` U8 [N, K/2]. NVFP4: `weight_scale` F8_E4M3 [N, K/16], and
`weight_global_scale`, `input_global_scale` F32 [1], which *divide*. MX: `weight_scale` U8 [N, K/32], exponents;
those of inputs by `generate_mx_scales`: amax rounded to one mantissa bit, for elements of 4 and of 8 bits.
4-bit integers of -8 to 7, with FP8 inputs (W4AFP8) or without (W4A16): `weight_scale` BF16 [N, K/g]. In the format
int-quantized they are `weight` I8 [N, K], one in each byte; in the format pack-quantized `weight_packed` I32 [N, K/8],
eight in a word, the first one lowest, each with 8 added; `weight_shape` I64 [2] holds N and K, whole groups.

`transform_config` names rotations and where each is applied (`TransformLocation`): "weight_input" and "weight_output"
were multiplied into the weights before they were quantized; "input", "output", "k_cache" and "q_attn" are for whoever
runs the model, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, assert_never

from fp8load.dtypes import DType
from fp8load.errors import ConfigError, Problem
from fp8load.formats.base import CheckpointFormat, Claim, Claimed, Ignored, Located, Unclaimed
from fp8load.formats.compressed_tensors_keys import Args, CompressedTensorsConfig, Group
from fp8load.formats.document import validated
from fp8load.formats.in_memory import is_loaded_name, loaded_names
from fp8load.formats.match import checked, exact_or_regex, first_cover, is_embedding
from fp8load.formats.microscaling import MXFP4, MXFP8, PACKED, mx, nvfp4
from fp8load.scheme import (
    Granularity,
    KVScheme,
    LinearScheme,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    QuantSpec,
    Role,
    SharedExponent,
    Storage,
)

NAME = "compressed_tensors"

SUFFIXES: Mapping[str, Role] = {
    "weight_packed": Role.WEIGHT,
    "weight_scale": Role.WEIGHT_SCALE,
    "weight_global_scale": Role.WEIGHT_GLOBAL_SCALE,
    "input_global_scale": Role.INPUT_GLOBAL_SCALE,
    "input_scale": Role.INPUT_SCALE,
}


def detect(document: Mapping[str, Any]) -> bool:
    """quant_method is compressed-tensors, in either spelling."""
    return str(document.get("quant_method", "")).replace("_", "-") == "compressed-tensors"


def parse(located: Located) -> CheckpointFormat:
    """The configuration as a value. Raises `ConfigError`."""
    config = validated(CompressedTensorsConfig, located)
    online = config.transform_config.online if config.transform_config is not None else ""
    if online:
        expected = "rotations that are a part of the weights (weight_input, weight_output)"
        raise _unsupported(located, "transform_config", expected, online)
    groups = [
        (
            checked(group.targets, located.place),
            Claimed(scheme=_scheme(group, located, name, config.format), by=f"group {name}", explicit=True),
        )
        for name, group in config.config_groups.items()
    ]
    ignored = _finder(checked(config.ignore or (), located.place))

    def claim(module: str) -> Claim:
        entry = ignored(module)
        if entry is not None:
            return Ignored(by=entry)
        # A name or expression means more than a class, whichever group comes first (vLLM's find_matched_target).
        for means in (covers, _class_name):
            for targets, claimed in groups:
                if any(means(target, module) for target in targets):
                    return claimed
        return Unclaimed()

    return CheckpointFormat(
        name=NAME,
        title="compressed-tensors: " + "; ".join(dict.fromkeys(str(claimed.scheme) for _, claimed in groups)),
        place=located.place,
        claim=claim,
        suffixes=SUFFIXES,
        unused={"weight_shape": "the packed weight and its scale have the same rows and columns"},
        kv=_kv(config.kv_cache_scheme, located),
        ignore=tuple(config.ignore or ()),
        covers=covers,
        unknown_keys=tuple(_unknown(config)),
    )


def covers(entry: str, module: str) -> bool:
    """Whether an entry of a list means a module, by its stored name or by one that it has in a loaded model."""
    if exact_or_regex(entry, module):
        return True
    return is_loaded_name(entry) and any(exact_or_regex(entry, name) for name in loaded_names(module))


def _finder(ignore: tuple[str, ...]) -> Callable[[str], str | None]:
    """From a module to an entry that covers it, as `covers` says, by looking up and not by searching."""
    stored = first_cover(ignore, exact_or_regex)
    loaded = first_cover(filter(is_loaded_name, ignore), exact_or_regex)

    def find(module: str) -> str | None:
        return stored(module) or next(filter(None, map(loaded, loaded_names(module))), None)

    return find


def _unknown(config: CompressedTensorsConfig) -> Iterator[str]:
    """Keys that this version does not know, nested ones by their path."""
    yield from config.model_extra or ()
    for name, group in config.config_groups.items():
        yield from (f"config_groups.{name}.{key}" for key in group.model_extra or ())
        for part, args in (("weights", group.weights), ("input_activations", group.input_activations)):
            if args is not None:
                yield from (f"config_groups.{name}.{part}.{key}" for key in args.model_extra or ())


def _class_name(target: str, module: str) -> bool:
    """Whether a group's target is the module's class. Only "Linear" is known; an embedding is no Linear."""
    return target == "Linear" and not is_embedding(module)


def _unsupported(located: Located, key: str, expected: str, got: str) -> ConfigError:
    return ConfigError(
        Problem(
            code="F8L107",
            message=f"{key} is not supported by this version",
            file=located.place,
            expected=expected,
            got=got,
            hint="`fp8load inspect --skeleton` still lists what the files hold",
        )
    )


_INT4 = {
    "int-quantized": (DType.I8, Storage()),
    "pack-quantized": (DType.I4, replace(PACKED, offset=8)),
}
"""How 4-bit integers are stored, by the format."""


def _scheme(group: Group, located: Located, name: str, fmt: str | None) -> LinearScheme:
    where = f"config_groups.{name}"
    weights, inputs = group.weights, group.input_activations
    if weights is None:
        raise _unsupported(located, f"{where}.weights", "a weight specification", "null")
    kind = _kind(weights)
    match kind:
        case "nvfp4":
            if inputs is not None and (_kind(inputs) != "nvfp4" or inputs.dynamic != "local"):
                raise _unsupported(located, f"{where}.input_activations", "NVFP4, or none", _kind(inputs))
            return nvfp4(divides=True, quantized_input=inputs is not None)
        case "mxfp4" | "mxfp8":
            activation = _mx_input(inputs, located, where)
            return mx(MXFP4 if kind == "mxfp4" else MXFP8, activation, SharedExponent.ONE_BIT)
        case "fp8":
            return LinearScheme(
                weight=QuantSpec(dtype=DType.F8_E4M3, granularity=_weight_granularity(weights, located, where)),
                input=_input(inputs, located, where),
                input_static=inputs is not None and inputs.dynamic is False,
            )
        case "int4" if (group.format or fmt) in _INT4:
            dtype, storage = _INT4[str(group.format or fmt)]
            granularity = _int_granularity(weights, located, where, packed=dtype is DType.I4)
            return LinearScheme(
                weight=QuantSpec(dtype=dtype, granularity=granularity),
                input=_input(inputs, located, where),
                input_static=inputs is not None and inputs.dynamic is False,
                storage=storage,
            )
        case _:
            expected = "symmetric FP8, MXFP8, MXFP4 or NVFP4, or int4 in the format int-quantized or pack-quantized"
            got = f"{kind}, strategy {weights.strategy}, group_size {weights.group_size}, format {group.format or fmt}"
            raise _unsupported(located, f"{where}.weights", expected, got)


def _kind(args: Args) -> str:
    """What one operand is quantized to, by the fields that decide it."""
    text = f"{args.type}{args.num_bits}" + ("" if args.symmetric else " asymmetric")
    exponents = args.strategy == "group" and args.group_size == 32 and args.scale_dtype == "torch.uint8"
    match text:
        case "float4" if args.strategy == "tensor_group" and args.group_size == 16:
            return "nvfp4"
        case "float4" if exponents:
            return "mxfp4"
        case "float8":
            return "mxfp8" if exponents else "fp8"
        case _:
            return text


def _mx_input(args: Args | None, located: Located, where: str) -> QuantSpec | None:
    if args is None:
        return None
    kind = _kind(args)
    if kind in ("mxfp4", "mxfp8") and args.dynamic is True:
        return MXFP4 if kind == "mxfp4" else MXFP8
    return _input(args, located, where)


def _weight_granularity(args: Args, located: Located, where: str) -> Granularity:
    match args.strategy:
        case "tensor" | None:
            return PerTensor()
        case "channel":
            return PerChannel()
        case "block":
            size = args.block_structure
            if size is None or min(size) < 1:
                raise _unsupported(located, f"{where}.weights.block_structure", "[rows, cols] for blocks", str(size))
            return PerBlock(*size)
        case "group" | "tensor_group" | "token" | "attn_head":
            raise _unsupported(located, f"{where}.weights.strategy", "tensor, channel or block", args.strategy)
        case _:
            assert_never(args.strategy)


def _int_granularity(args: Args, located: Located, where: str, *, packed: bool) -> Granularity:
    """Channels, or groups. Only groups show in a header how many columns packed integers have: all words are full."""
    if args.strategy == "channel" and not packed:
        return PerChannel()
    in_groups = args.strategy == "group" and args.group_size is not None and args.group_size > 0
    if in_groups and args.group_size is not None and (args.group_size % 8 == 0 or not packed):
        return PerGroup(args.group_size)
    expected = "group with a group_size of whole words of 8" if packed else "channel, or group with a group_size"
    got = f"{args.strategy}, group_size {args.group_size}"
    raise _unsupported(located, f"{where}.weights.strategy", expected, got)


def _input(args: Args | None, located: Located, where: str) -> QuantSpec | None:
    if args is None:
        return None
    where = f"{where}.input_activations"
    if args.type != "float" or args.num_bits != 8 or not args.symmetric or args.dynamic == "local":
        raise _unsupported(located, where, "symmetric 8-bit floats, static or dynamic", f"{args.type}{args.num_bits}")
    granularity: Granularity
    match args.strategy:
        case "tensor" | None:
            granularity = PerTensor()
        case "token":
            granularity = PerToken()
        case "group" if args.group_size is not None:
            granularity = PerGroup(args.group_size)
        case _:
            raise _unsupported(
                located, f"{where}.strategy", "tensor, token, or group with a group_size", str(args.strategy)
            )
    if args.dynamic is False and granularity != PerTensor():
        raise _unsupported(located, where, "dynamic activations, or static ones per tensor", f"static {granularity}")
    return QuantSpec(dtype=DType.F8_E4M3, granularity=granularity)


def _kv(args: Args | None, located: Located) -> KVScheme | None:
    if args is None:
        return None
    if args.type != "float" or args.num_bits != 8 or args.strategy not in ("tensor", None):
        got = f"{args.type}{args.num_bits}, strategy {args.strategy}"
        raise _unsupported(located, "kv_cache_scheme", "8-bit floats per tensor", got)
    return KVScheme(dtype=DType.F8_E4M3, granularity=PerTensor(), static=args.dynamic is False)
