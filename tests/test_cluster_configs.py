"""cluster-configs/: valid, runnable, and about machines only."""

import copy
import gzip
import importlib.util
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from avader.config import SETTINGS, parse

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "cluster-configs"
KUBERAY = sorted((CONFIGS / "kuberay").glob("*.yaml"))
SCRIPTS = [CONFIGS / "local" / "head.sh", CONFIGS / "slurm" / "avader.sbatch"]
JOB_FILES = [path for path in KUBERAY if path.stem != "cluster"]
SCHEMAS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
# Where a run takes place and what it reads and writes: all that an entrypoint may say.
PLACES = {"config", "source", "data", "model", "catalogue", "out", "device"}
# Mappings whose keys the schema leaves free.
FREE = {"rayStartParams", "requests", "limits"}

every_kuberay_file = pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
every_job_file = pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.stem)


def load(path):
    return yaml.safe_load(path.read_text())


def strict(schema):
    """The schema with every mapping closed whose keys it names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in closed and isinstance(closed["properties"], dict):
        closed.setdefault("additionalProperties", False)
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return closed


@pytest.fixture(scope="module")
def validators(real_data):
    """A strict validator for each kind."""
    made = {}
    for kind, name in SCHEMAS.items():
        packed = (real_data / "kuberay" / f"{name}.v1.schema.json.gz").read_bytes()
        schema = strict(json.loads(gzip.decompress(packed)))
        # The published schema leaves metadata, which every resource has, to Kubernetes.
        schema["properties"]["metadata"] = {
            "additionalProperties": False,
            "properties": {key: {"type": "string"} for key in ("name", "generateName")},
        }
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        made[kind] = jsonschema.Draft202012Validator(schema)
    return made


def renamed_keys(document, path=()):
    """Where each key of a closed mapping stands, as (path to the mapping, key)."""
    if isinstance(document, list):
        for index, item in enumerate(document):
            yield from renamed_keys(item, (*path, index))
    elif isinstance(document, dict) and not (path and path[-1] in FREE):
        for key, value in document.items():
            yield path, key
            yield from renamed_keys(value, (*path, key))


def misspell(document, *, path, key):
    changed = copy.deepcopy(document)
    mapping = changed
    for step in path:
        mapping = mapping[step]
    mapping[key + "x"] = mapping.pop(key)
    return changed


@every_kuberay_file
def test_valid_by_the_schema_of_kuberay(path, validators):
    document = load(path)
    problems = [error.message for error in validators[document["kind"]].iter_errors(document)]
    assert problems == []


@every_kuberay_file
def test_a_misspelt_field_is_refused_wherever_it_stands(path, validators):
    document = load(path)
    places = list(renamed_keys(document))
    assert len(places) > 20
    kept = [
        ".".join(map(str, (*place, key)))
        for place, key in places
        if validators[document["kind"]].is_valid(misspell(document, path=place, key=key))
    ]
    assert kept == []


def test_a_wrong_type_is_refused(validators):
    document = load(CONFIGS / "kuberay" / "classify.yaml")
    document["spec"]["backoffLimit"] = "two"
    assert not validators["RayJob"].is_valid(document)


def test_no_job_stands_in_a_librarys_way():
    """Python looks for modules beside the file that it runs: jobs/hats.py is not the library."""
    names = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert {name for name in names if importlib.util.find_spec(name)} == {"hats"}
    job = [sys.executable, "jobs/hats.py", "--catalogue", "absent", "--out", "absent too"]
    ended = subprocess.run(job, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "wanted a finished folder" in ended.stderr


def test_every_verb_has_its_rayjob():
    kinds = {path.stem: load(path)["kind"] for path in KUBERAY}
    assert kinds == {
        **dict.fromkeys(SETTINGS, "RayJob"),
        "nightly": "RayCronJob",
        "cluster": "RayCluster",
    }


def entrypoint(path):
    """The words that the submitter's shell makes of an entrypoint."""
    spec = load(path)["spec"]
    text = spec.get("jobTemplate", spec)["entrypoint"]
    assert not re.search(r"[;&|`'\"]", text), "all of it must reach `ray job submit` as it is"
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {text}"], text=True)
    return words.splitlines()


def required_settings(verb):
    """Values for a verb's needed settings, as its TOML file holds them."""
    fields = SETTINGS[verb].model_fields
    needed = {name: field.annotation for name, field in fields.items() if field.is_required()}
    if verb == "generate":
        needed["count"] = int  # or counts
    return {name: "s3://sky/x" if kind is str else 1 for name, kind in needed.items()}


@every_job_file
def test_entrypoint_is_a_job_with_options_that_exist(path):
    python, job, *options = entrypoint(path)
    assert python == "python"
    assert (ROOT / job).is_file()
    verb = Path(job).stem.replace("_", "-")
    assert verb == (path.stem if path.stem in SETTINGS else "classify")
    toml = "\n".join(f"{key} = {json.dumps(it)}" for key, it in required_settings(verb).items())
    settings = parse(verb, options, read_text=lambda _: toml, recipe_text=lambda _: "")
    assert settings.config.startswith("s3://BUCKET/runs/")


@every_job_file
def test_entrypoint_says_where_and_never_what(path):
    options = entrypoint(path)[2:]
    names, values = options[::2], options[1::2]
    assert {name.removeprefix("--") for name in names} <= PLACES
    for name, value in zip(names, values, strict=True):
        assert value == "gpu" if name == "--device" else value.startswith("s3://BUCKET/")


@pytest.mark.parametrize("name", ["classify", "generate", "nightly"])
def test_gpus_that_are_paid_for_are_used(name):
    path = CONFIGS / "kuberay" / f"{name}.yaml"
    assert "nvidia.com/gpu" in path.read_text()
    assert entrypoint(path)[2:4] == ["--device", "gpu"]


def test_each_night_has_its_own_folder():
    words = entrypoint(CONFIGS / "kuberay" / "nightly.yaml")
    options = dict(zip(words[2::2], words[3::2], strict=True))
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    assert options["--out"] == f"s3://BUCKET/nights/{yesterday}/catalogue"
    assert options["--data"] == f"s3://BUCKET/nights/{yesterday}/cutouts"


def test_no_science_anywhere():
    """No option or variable that decides a number stands in any file, comments included."""
    machines = {"config", "address", "workers", "device", "max_failures", "weights"} | PLACES
    fields = {name for verb in SETTINGS.values() for name in verb.model_fields}
    science = {name.replace("_", "-") for name in fields - machines}
    for path in CONFIGS.rglob("*"):
        if path.is_file():
            text = path.read_text()
            options = {name.split(".")[0] for name in re.findall(r"--([a-z][a-z0-9.-]*)", text)}
            assert not options & science, path
            assert re.findall(r"AVADER_(?!VENV)[A-Z]+", text) == [], path


def ray_pods(document):
    spec = document["spec"]
    spec = spec.get("jobTemplate", spec)
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return cluster, groups


@every_kuberay_file
def test_image_credentials_and_token(path):
    cluster, groups = ray_pods(load(path))
    assert cluster["authOptions"] == {"mode": "token"}
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "ghcr.io/OWNER/avader:VERSION"
        assert container["envFrom"] == [{"secretRef": {"name": "avader-storage"}}]
        assert "env" not in container


@every_kuberay_file
def test_all_workers_are_there_before_the_job_counts_them(path):
    for group in ray_pods(load(path))[1][1:]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_one_ray_version_everywhere():
    versions = {ray_pods(load(path))[0]["rayVersion"] for path in KUBERAY}
    image = re.findall(r"ray==([\d.]+)", (CONFIGS / "Dockerfile").read_text())
    tested = "\n".join(path.read_text() for path in ROOT.glob("*constraints*.txt"))
    pinned = re.findall(r"(?m)^ray(?:\[.*\])?==([\d.]+)", tested)
    assert versions == set(image)
    assert set(pinned) <= versions


def test_authentication_is_never_switched_off():
    for path in CONFIGS.rglob("*"):
        if path.is_file():
            assert "disabled" not in path.read_text(), path


@pytest.mark.parametrize("path", [*KUBERAY, *SCRIPTS], ids=lambda path: path.name)
def test_head_says_how_to_use_it(path):
    lines = path.read_text().splitlines()
    head = []
    for line in lines[lines[0].startswith("#!") :]:
        if not line.startswith("#") or line.startswith("#SBATCH"):
            break
        head.append(line)
    assert len(head) >= 5
    assert path.name in "\n".join(head)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_executable(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)


@pytest.fixture
def slurm(tmp_path):
    """Runs the Slurm script with stand-ins for scontrol and srun; srun shows what it was given."""

    def stand_in(name, body):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    # More names than a pipe holds: who reads the first alone must not end the script.
    stand_in("scontrol", 'printf "%s\\n" node07; seq -f "node%05g" 8 20000')
    stand_in("srun", 'echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}"; printf "%q " "$@"')
    stand_in("python", f'exec {shlex.quote(sys.executable)} "$@"')
    stand_in("activate", "")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "AVADER_VENV": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[07-08]",
        "SLURM_JOB_ID": "1234567",
        "SLURM_NNODES": "2",
    }

    def run(*arguments):
        command = [str(SCRIPTS[1]), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_slurm_starts_ray_on_every_node_with_one_token(slurm):
    done = slurm("import-published", "--out", "/project/a folder")
    assert done.returncode == 0, done.stderr
    token, command = done.stdout.splitlines()
    assert token == "token 64"
    assert shlex.split(command) == [
        *("--nodes=2", "--ntasks-per-node=1", "--cpu-bind=none", "ray", "symmetric-run"),
        *("--address", "node07:24567", "--min-nodes", "2", "--disable-usage-stats"),
        *("--", "env", "RAY_ADDRESS=node07:24567", "python", "-u", "jobs/import_published.py"),
        *("--out", "/project/a folder"),
    ]


def test_slurm_refuses_an_unknown_verb(slurm):
    done = slurm("clasify")
    assert done.returncode == 2
    assert "clasify" in done.stderr
