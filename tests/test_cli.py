import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avader import config
from avader.cli import VERBS, main
from avader.pipelines.texts import read_recipe, read_text

ROOT = Path(__file__).resolve().parents[1]


def ran(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_help_names_every_verb_within_two_seconds():
    began = time.monotonic()
    done = ran("-m", "avader", "--help")
    assert time.monotonic() - began < 2  # a second on a quiet machine
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_says_what_each_option_is(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith(f"usage: avader {verb}")
    assert "(required)" in text
    assert "(default:" in text


def test_a_job_is_the_same_verb():
    job = ran("jobs/verify.py", "--help")
    assert job.returncode == 0
    assert job.stdout == ran("-m", "avader", "verify", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: avader VERB"),
        (["classfy"], "wanted a verb, got 'classfy'"),
        (["verify"], "avader verify: --catalogue is needed; see `avader verify --help`"),
        (["verify", "--catalogue", "absent"], "wanted a finished folder with manifest.json"),
        (["pack", "--source", "absent", "--out", "out"], "there is nothing; check the path"),
        (["classify", "--model", "m", "--data", "d", "--out", "o"], "manifest.json"),
        (["generate", "--model", "absent", "--out", "o", "--count", "5"], "config.json"),
        (
            ["generate", "--model", "m", "--out", "o", "--count", "0"],
            "--count: wanted objects, either",
        ),
        (["train", "--data", "d", "--out", "o", "--recipe", "absent"], "absent"),
        (["import-published", "--weights", "absent", "--out", "o"], "cannot read"),
        (["report", "--model", "m", "--catalogue", "absent", "--out", "o"], "absent"),
        (["export", "--catalogue", "absent", "--out", "o.fits"], "absent"),
        (["pack", "--config", "absent.toml"], "cannot read"),
    ],
)
def test_bad_input_ends_with_2_and_a_message_alone(
    arguments, message, capfd, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert message in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_does_not_answer_ends_with_1_and_a_message_alone(capfd, monkeypatch):
    import s3fs

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    for name in names:
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0")
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["verify", "--catalogue", "s3://bucket/catalogue"]) == 1
    s3fs.S3FileSystem.clear_instance_cache()
    shown = capfd.readouterr().err
    assert shown.startswith("avader verify: cannot read s3://bucket/catalogue/latest.json: tried")
    assert "Traceback" not in shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("avader 0.")


def commands(text: str) -> list[list[str]]:
    """The words of every `avader` command in a text's indented lines, as a shell takes them."""
    lines = re.findall(r"^ {4,8}(avader (?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [shlex.split(line.replace("\\\n", " "), comments=True) for line in lines]


def test_the_commands_of_the_readme_are_commands():
    found = commands((ROOT / "README.md").read_text())
    assert {words[1] for words in found} >= {"pack", "train", "classify", "generate", "hats"}
    for words in found:
        config.parse(words[1], words[2:], read_text=read_text, recipe_text=read_recipe)


def test_jobs_name_places_that_stay():
    """A job's own folder is a copy that Ray removes."""
    for path in (ROOT / "jobs").glob("*.py"):
        text = path.read_text()
        places = re.findall(r"--(?:out|data|model|source|catalogue|weights) (\S+)", text)
        assert places, path
        assert all(place.startswith("s3://") for place in places), path
