"""Who may import whom: read from the source, so that nothing is missed."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STDLIB = set(sys.stdlib_module_names)
# Pure leaves that every room may use.
BASE = {"errors", "plan", "ranges", "recipe"}
NUMERIC = {"numpy", "torch"}
THIRD_PARTY = {
    "errors": set(),
    "plan": set(),
    "ranges": {"pydantic"},
    "recipe": {"pydantic"},
    "config": {"numpy", "pydantic", "pydantic_settings"},
    "recipes": set(),
    "images": {"numpy", "PIL", "astropy"},
    "survey": {"numpy", "pyarrow"},  # and one HTTP client, in client.py
    "mixture": NUMERIC,
    "model": NUMERIC,
    "training": NUMERIC,
    "inference": NUMERIC,
    "catalogue": {"numpy", "pyarrow", "astropy", "cdshealpix"},
    # botocore is s3fs's own: its errors are turned into ours.
    "io": {"numpy", "pyarrow", "fsspec", "s3fs", "botocore", "safetensors", "astropy", "hats"},
    "synthetic": NUMERIC,
    "report": {"numpy", "matplotlib", "jinja2"},
    "api": {"numpy", "torch", "pyarrow", "pandas"},
    "pipelines": {"numpy", "torch", "pyarrow", "ray", "fsspec"},
    "cli": set(),
    "__init__": set(),
    "__main__": set(),
}
EXCEPTIONS = {
    # Smoothing, opening and labelling of connected pixels: scipy.ndimage's, not our own.
    "images/source.py": {"scipy"},
    # Splines: Pillow's bicubic transform errs by 2 % of a small galaxy's peak.
    "images/orientation.py": {"scipy"},
    "survey/client.py": {"requests"},
    # The CPUs of a container or of a part of a machine.
    "pipelines/cores.py": {"joblib"},
    # Posting the summary of a run.
    "pipelines/closing.py": {"requests"},
    "survey/mock.py": {"galsim"},
    # k-means and EM.
    "mixture/initial.py": {"sklearn"},
    # The Dirichlet-process mixture.
    "mixture/count.py": {"sklearn"},
    # Nearest neighbours and k-means; sparse graphs and their eigenvectors.
    "mixture/graph.py": {"sklearn", "scipy"},
    "model/published.py": {"h5py"},
    # MOCs and HEALPix maps in FITS.
    "synthetic/region.py": {"astropy", "cdshealpix"},
    # Event files are written by the formats' own code, not by ours.
    "pipelines/training/tensorboard.py": {"tensorboardX"},
    "pipelines/training/tracking.py": {"mlflow"},
    # The search itself: TPE. Recipes' values may not go together, which pydantic says.
    "pipelines/tuning/search.py": {"optuna"},
    "pipelines/tuning/trial.py": {"pydantic"},
    # The standard library reads TOML and doesn't write it.
    "pipelines/tuning/records.py": {"tomlkit"},
}
ROOMS = {
    "errors": set(),
    "plan": set(),
    "ranges": set(),
    "recipe": set(),
    "config": set(),
    "recipes": set(),
    "images": set(),
    # The catalogue's pixels, into which a source is cut.
    "survey": {"images", "io", "catalogue"},
    "mixture": set(),
    "model": {"mixture"},
    "training": {"mixture", "model"},
    "inference": {"mixture", "model"},
    "catalogue": set(),
    "io": {"catalogue"},
    # The catalogue's pixels, into which a sky is cut.
    "synthetic": {"images", "mixture", "inference", "catalogue"},
    "report": {"science"},
    "api": {
        "images",
        "survey",
        "mixture",
        "model",
        "training",
        "inference",
        "synthetic",
        "catalogue",
        "io",
    },
    "cli": {"config", "pipelines"},
    "__init__": {"api"},
    "__main__": {"cli"},
}
FILES = sorted((ROOT / "avader").rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "avader").parts
    return parts[0] if len(parts) > 1 else path.stem


def imports_of(source: str) -> set[str]:
    """Dotted names that a source imports, anywhere in it, but for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            found |= {argument.value} if isinstance(argument, ast.Constant) else set()
    return found


def breaches(path: Path, source: str) -> list[str]:
    """Imports of a file that its room may not make."""
    room = room_of(path)
    relative = path.relative_to(ROOT / "avader").as_posix()
    allowed = THIRD_PARTY[room] | EXCEPTIONS.get(relative, set())
    wrong = []
    for name in sorted(imports_of(source)):
        top, *rest = name.split(".")
        if top in STDLIB:
            continue
        if top != "avader":
            wrong += [] if top in allowed else [name]
        elif rest and room != "pipelines":
            inner = rest[0]
            wrong += [] if inner in ROOMS[room] | BASE | {room, "__version__"} else [name]
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_keeps_the_law(path: Path):
    assert breaches(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("mixture/x.py", "import ray"),
        ("images/x.py", "def f():\n    from avader.io import storage"),
        ("catalogue/x.py", "import torch.nn"),
        ("io/x.py", "import importlib\nimportlib.import_module('ray')"),
        ("survey/x.py", "import galsim"),
    ],
)
def test_a_breach_is_seen(file: str, source: str):
    assert breaches(ROOT / "avader" / file, source)


def test_jobs_import_only_the_command_line():
    for path in (ROOT / "jobs").glob("*.py"):
        assert imports_of(path.read_text()) <= {"sys", "avader.cli.run_verb"}, path
        assert len(path.read_text().splitlines()) <= 80, path


def test_ray_is_in_one_room_only():
    users = {
        room_of(path)
        for path in FILES
        if "ray" in {name.split(".")[0] for name in imports_of(path.read_text())}
    }
    assert users == {"pipelines"}
