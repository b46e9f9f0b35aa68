"""The `fp8load` command."""
