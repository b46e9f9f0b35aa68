"""The version, in a module of its own: `fp8load -h` needs it and nothing else."""

VERSION = "0.1.0"
