"""The commands: one file each, which defines `register(app)`. Their work is imported when they run."""

GROUPS = {"bench": ("gemm", "load")}
"""The commands of those that are groups."""

COMMANDS = ("inspect", "verify", "plan", "rule", "doctor", "schema", "bench")
