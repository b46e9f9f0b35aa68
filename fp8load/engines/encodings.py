"""Does the engine take the numbers for what they are: dtypes of weights and scales, one scale for several parts, the
names of KV scales."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fp8load.dtypes import DType
from fp8load.engines.kinds import kind_of
from fp8load.engines.profile import KVFact, Profile, ScaleFact
from fp8load.engines.stored import Stored
from fp8load.engines.verdict import Target, Verdict
from fp8load.errors import Severity
from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import PerTensor, Role

EXPONENTS = (DType.U8, DType.F8_E8M0)
FOREIGN = ("kv_scale", "output_scale", "kv_cache_scaling_factor", "output_quantizer.scale")
"""Ends of names under which tools have stored KV scales, and which no format of this version reads."""


def weights(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Eight-bit weights in another format than the engine's."""
    for held in stored.held:
        dtype = held.scheme.weight.dtype
        if not profile.weight_dtypes or not dtype.is_fp8 or dtype.value in profile.weight_dtypes:
            continue
        for info in held.modules:
            tensor, file = stored.stored_tensor(info, Role.WEIGHT)
            yield Verdict(
                text=f"keeps such weights as {profile.weight_dtypes[0]}, which cannot hold all of their numbers",
                module=info.name, tensor=tensor, file=file, expected=" or ".join(profile.weight_dtypes),
                got=dtype.value, remedy="quantize again to E4M3; a cast changes weights without a message",
            )  # fmt: skip


def exponents(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Scales stored as exponents that the engine reads as something else."""
    yield from _scales(profile, stored, among=EXPONENTS, severity=Severity.WARNING)


def scale_dtypes(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Scales in a float dtype that the engine does not take."""
    yield from _scales(profile, stored, among=tuple(set(DType) - set(EXPONENTS)), severity=Severity.ERROR)


def _scales(profile: Profile, stored: Stored, *, among: tuple[DType, ...], severity: Severity) -> Iterator[Verdict]:
    facts = [fact for fact in profile.scales if not fact.formats or stored.format in fact.formats]
    for held, dtype, infos in stored.by_scale:
        for fact in facts if dtype in among else ():
            if held.kind in fact.kinds and dtype.value in fact.dtypes:
                yield from (_unread(fact, stored, info, severity) for info in infos)


def _unread(fact: ScaleFact, stored: Stored, info: ModuleInfo, severity: Severity) -> Verdict:
    name, file = stored.stored_tensor(info, Role.WEIGHT_SCALE)
    meta = stored.checkpoint.index.tensors[name]
    return Verdict(text=fact.effect, module=info.name, tensor=name, file=file, got=str(meta),
                   expected=f"not {meta.dtype}", remedy=fact.remedy, severity=severity)  # fmt: skip


def fused(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """Layers stored fused whose one scale the engine does not spread over all parts."""
    facts = [fact for fact in profile.fused if not fact.formats or stored.format in fact.formats]
    for group in stored.fused if facts else ():
        info = group.members[0]
        if not group.fused_on_disk or not _has_one_number(info):
            continue
        for fact in facts:
            if info.scheme is not None and kind_of(info.scheme) in fact.kinds:
                tensor, file = stored.stored_tensor(info, _number(info))
                yield Verdict(
                    text=fact.effect, module=info.name, tensor=tensor, file=file, severity=Severity.WARNING,
                    expected="a scale for each part of the layer", got="one scale for all parts",
                    remedy="split the layer into its parts, each with the scale; or use a newer version",
                )  # fmt: skip


def _has_one_number(info: ModuleInfo) -> bool:
    scheme = info.scheme
    return scheme is not None and (scheme.second_level is not None or scheme.weight.granularity == PerTensor())


def _number(info: ModuleInfo) -> Role:
    return Role.WEIGHT_GLOBAL_SCALE if Role.WEIGHT_GLOBAL_SCALE in info.tensors else Role.WEIGHT_SCALE


def kv_names(profile: Profile, stored: Stored, _target: Target) -> Iterator[Verdict]:
    """KV scales under names that the engine does not read."""
    fact = profile.kv
    if fact is None:
        return
    lowered = stored.checkpoint.lowered
    patterns = [re.compile(text) for text in (*fact.names, *fact.formats.get(stored.format, ()))]
    metas = [meta for (_, role), meta in lowered.kv.items() if role in (Role.K_SCALE, Role.V_SCALE)]
    metas += [meta for meta in lowered.loose.values() if meta.name.endswith(FOREIGN)]
    text, expected, remedy = _of_kv(fact, reads_some=bool(patterns))
    for meta in dict.fromkeys(metas):
        if not any(pattern.search(meta.name) for pattern in patterns):
            yield Verdict(
                text=text, tensor=meta.name, file=meta.file, expected=expected, got=meta.name, remedy=remedy,
                loads=fact.loads, severity=Severity.WARNING if fact.loads else Severity.ERROR,
            )  # fmt: skip


def _of_kv(fact: KVFact, *, reads_some: bool) -> tuple[str, str, str]:
    """Text, expected and remedy: another name helps only where the engine reads some name."""
    if not reads_some and fact.remedy:
        return f"reads no KV-cache scales: {fact.otherwise}", "no such tensor", fact.remedy
    names = "self_attn.k_scale and self_attn.v_scale"
    return f"does not read a KV-cache scale of this name: {fact.otherwise}", names, f"rename the scales to {names}"
