"""What the packaging promises: names, arrows between packages, and torch behind its border."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fp8load

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in the repository."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_public_names_are_what_all_says() -> None:
    public = {name for name in vars(fp8load) if not name.startswith("_")}

    assert set(fp8load.__all__) - {"__version__"} <= public
    assert fp8load.__version__


@pytest.mark.parametrize(
    "question",
    [
        "c.summary()",
        "c.verify()",
        "c.verify(tp=(1, 2))",
        "c.verify(against=c)",
        "c.plan(tp_size=2)",
        "c.plan().explain('lm_head.weight')",
    ],
)
def test_questions_about_a_checkpoint_are_answered_without_torch(question: str) -> None:
    done = python(
        f"{WITHOUT_TORCH}\nimport fp8load\nc = fp8load.open('fixtures/checkpoints/ct-llama128-fp8-static')\n{question}"
    )

    assert done.returncode == 0, done.stderr


def test_nothing_shadows_the_package_kernels() -> None:
    """transformers imports a package of that name from PyPI; a folder with an __init__ here would hide it."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not list((ROOT / "kernels").glob("*.py"))


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fp8load", "--version"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0
    assert fp8load.__version__ in done.stdout


def test_types_are_shipped() -> None:
    assert (ROOT / "fp8load" / "py.typed").exists()


def test_fixtures_stay_small() -> None:
    nbytes = sum(path.stat().st_size for path in (ROOT / "fixtures").rglob("*") if path.is_file())

    assert nbytes < 30 * 2**20


def test_every_format_file_is_documented_with_its_source() -> None:
    from fp8load.formats.locate import format_modules

    for module in format_modules():
        assert module.__doc__
        assert any(word in module.__doc__ for word in ("Source", "transformers", "Written by")), module.NAME


def test_transformers_is_imported_when_it_is_asked_for_and_not_before() -> None:
    code = (
        "import sys, fp8load\n"
        "assert not {'torch', 'transformers', 'fp8load.transformers'} & sys.modules.keys()\n"
        "import torch\n"
        "fp8load.transformers.from_pretrained\n"
        "assert 'transformers' not in sys.modules, 'only the call needs it'\n"
        "try: fp8load.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
    )

    done = python(code)

    assert done.returncode == 0, done.stderr
