"""Help, and what importing the program costs."""

from __future__ import annotations

import sys

import pytest

from fp8load_cli.commands import COMMANDS

from .conftest import CLEAN, ROOT


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_exit_codes_environment_and_three_examples(run, command):
    text = run(command, "--help").out
    examples = text.partition("Examples:\n")[2].strip().splitlines()

    assert len(examples) == 3
    assert all(example.strip().startswith(f"fp8load {command}") for example in examples)
    for word in ("Exit codes:", "  130  interrupted", "Environment:", "FP8LOAD_FORMAT", "Global options:"):
        assert word in text
    assert run(command, "-h").out == text


def test_every_command_is_listed_with_a_whole_sentence(run):
    listed = run("-h").out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()

    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def blocked(*modules: str) -> str:
    """A program that runs fp8load where these modules cannot be imported."""
    return (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {modules!r}: raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "from fp8load_cli.app import main\n"
        "sys.exit(main())\n"
    )


def python(code: str, *words: str):
    import subprocess

    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, cwd=ROOT, timeout=60, check=False)


@pytest.mark.parametrize("words", [("-h",), ("--version",)])
def test_help_imports_neither_torch_nor_pydantic_nor_the_hub(words):
    done = python(blocked("torch", "pydantic", "huggingface_hub", "numpy", "rich"), *words)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command):
    """pydantic is allowed: typer itself takes it to convert the values of options."""
    done = python(blocked("torch", "huggingface_hub", "numpy", "rich"), command, "-h")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", CLEAN),
        ("verify", CLEAN, "--tp", "2"),
        ("plan", CLEAN, "--tp", "2", "--explain", "lm_head.weight"),
        ("verify", "fixtures/checkpoints/ct-phi3-fp8-static-kv", "--level", "scales"),
        ("rule", "--all"),
        ("schema",),
    ],
)
def test_questions_about_checkpoints_never_import_torch(words):
    done = python(blocked("torch", "huggingface_hub"), *words)

    assert done.returncode == 0, done.stderr


def test_a_mistyped_command_says_what_was_meant(run):
    result = run("inspct", CLEAN)

    assert result.code == 2
    assert "Did you mean 'inspect'?" in result.err
