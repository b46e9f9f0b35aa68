"""Of several scales for one range the widest: the largest number, or the smallest of those that divide."""

from fp8load.formats.lowered import ModuleInfo
from fp8load.scheme import Role


def divides(info: ModuleInfo, role: Role) -> bool:
    """Whether a module's input is divided by its scale under `role`, as by compressed-tensors' global ones."""
    second = None if info.scheme is None else info.scheme.input_global
    return role is Role.INPUT_GLOBAL_SCALE and second is not None and second.divides
