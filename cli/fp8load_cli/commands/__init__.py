"""The commands: one file each, which defines `register(app)`. Their work is imported when they run."""

COMMANDS = ("inspect", "verify", "plan", "rule", "doctor", "schema", "bench")
