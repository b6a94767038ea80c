import hashlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from avader.errors import InputError
from avader.io.models import (
    FILES,
    NOISE,
    has_noise,
    read_model,
    read_noise,
    write_model,
    write_noise,
)

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.ones(2)}


@pytest.fixture
def folder(tmp_path):
    write_model(str(tmp_path), config={"size": 8}, tensors=TENSORS, card={"seed": 1})
    return tmp_path


def test_round_trip(folder):
    model = read_model(str(folder))
    assert model.config["size"] == 8
    assert model.card == {"seed": 1, "digest": model.digest}
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(model.tensors[name], values)


def test_digest_is_of_config_and_weights_alone(tmp_path):
    first = write_model(str(tmp_path / "1"), config={}, tensors=TENSORS, card={"seed": 1})
    assert first == write_model(str(tmp_path / "2"), config={}, tensors=TENSORS, card={"seed": 2})
    assert first != write_model(str(tmp_path / "3"), config={"x": 1}, tensors=TENSORS, card={})


@pytest.mark.parametrize("name", FILES)
def test_a_missing_part_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"without {name}; give a folder written by"):
        read_model(str(folder))


def test_damage_is_seen(folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="wanted avader-model version 1"):
        read_model(str(folder))
    (folder / "config.json").write_text("no JSON")
    with pytest.raises(InputError, match="wanted JSON"):
        read_model(str(folder))


def test_foreign_weights_are_refused(folder, tmp_path):
    write_model(str(tmp_path / "x"), config={"size": 8}, tensors={"a": np.zeros(1)}, card={})
    weights = (tmp_path / "x" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="not the one its card names"):
        read_model(str(folder))


SPECTRUM = np.random.default_rng(0).uniform(size=(2, 4, 3))
ABOUT = {"images": 7, "pixels": "whole frame", "shape": [2, 4, 4], "data": "d" * 64}


def test_noise_comes_back(folder):
    before = read_model(str(folder))
    assert not has_noise(str(folder))
    digest = write_noise(str(folder), spectrum=SPECTRUM, about=ABOUT)
    found = read_noise(str(folder))
    assert found.spectrum.dtype == np.float32
    np.testing.assert_array_equal(found.spectrum, SPECTRUM.astype(np.float32))
    assert found.about == ABOUT
    assert found.digest == digest == hashlib.sha256((folder / NOISE).read_bytes()).hexdigest()
    assert has_noise(str(folder))
    assert read_model(str(folder)).digest == before.digest
    with safe_open(folder / NOISE, "np") as theirs:
        assert theirs.keys() == ["spectrum"]
        assert theirs.metadata().keys() == {"about"}


def test_noise_is_written_alike_by_every_process(folder):
    """safetensors itself writes several texts in the order of a hash that differs each time."""
    digest = write_noise(str(folder), spectrum=SPECTRUM, about=ABOUT)
    code = (
        "import sys; from tests.io.test_models import *; "
        "print(write_noise(sys.argv[1], spectrum=SPECTRUM, about=dict(reversed(ABOUT.items()))))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == digest


def test_a_model_without_noise_says_what_to_do(folder):
    with pytest.raises(InputError, match=r"this model holds no noise; train it again, or give im"):
        read_noise(str(folder))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a tensor",
        save({"spectrum": np.ones(3, np.float32)}),
        save({"spectrum": np.ones(3, np.float32)}, metadata={"about": "no JSON"}),
        save({"weights": np.ones(3, np.float32)}, metadata={"about": "{}"}),
    ],
)
def test_a_file_that_is_no_noise(folder, data):
    (folder / NOISE).write_bytes(data)
    with pytest.raises(InputError, match=r"wanted a noise spectrum in .*, got another file"):
        read_noise(str(folder))
