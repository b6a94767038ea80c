"""The public API and the list of options: a change here is a decision, not an accident."""

import subprocess
import sys
from pathlib import Path

import pytest

import avader
from avader.cli import VERBS
from avader.config import SETTINGS, JobSettings

OPTIONS = Path(__file__).with_name("options.txt")


def options() -> str:
    """Every verb's options, a line each: name, type, default."""
    lines = []
    for verb, kind in SETTINGS.items():
        lines += [f"{verb} {line}" for line in described(kind)]
    return "\n".join(lines) + "\n"


def described(kind, prefix: str = "--") -> list[str]:
    lines = []
    for name, field in sorted(kind.model_fields.items()):
        option = prefix + name.replace("_", "-")
        if hasattr(field.annotation, "model_fields"):
            lines += described(field.annotation, option + ".")
        else:
            default = "required" if field.is_required() else repr(field.default)
            lines.append(f"{option} {default}")
    return lines


def test_options_are_frozen():
    assert options() == OPTIONS.read_text(), (
        "options changed: if that is meant, write them anew with "
        "`python -m tests.test_public_api` and say so in the commit"
    )


def test_every_verb_has_settings_and_a_job():
    jobs = {path.stem.replace("_", "-") for path in (OPTIONS.parents[1] / "jobs").glob("*.py")}
    assert set(VERBS) == set(SETTINGS) == jobs


@pytest.mark.parametrize("kind", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_option_is_explained(kind: type[JobSettings]):
    def unexplained(kind, prefix=""):
        for name, field in kind.model_fields.items():
            if not field.description:
                yield prefix + name
            if hasattr(field.annotation, "model_fields"):
                yield from unexplained(field.annotation, f"{prefix}{name}.")

    assert list(unexplained(kind)) == []


def test_public_names():
    names = ["__version__", "load_model", "open_catalogue", "regenerate", "torch_dataset"]
    assert sorted(avader.__all__) == names


def test_importing_avader_is_light():
    code = "import sys, avader; print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_help_answers_without_the_heavy_packages():
    code = (
        "import sys; from avader.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'ray', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("[]")
    assert all(verb in ran.stdout for verb in VERBS)


@pytest.mark.parametrize("module", ["classifying", "drawing.worker", "packing.worker"])
def test_workers_load_what_their_rows_need(module):
    """Positions, FITS and turned images alone need these, a second of each worker's start."""
    code = (
        f"import sys, avader.pipelines.{module}; "
        "print([m for m in ('astropy', 'cdshealpix', 'scipy', 'sklearn') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


if __name__ == "__main__":
    OPTIONS.write_text(options())
