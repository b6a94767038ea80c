import numpy as np
import pytest

from avader.errors import InputError
from avader.io.models import FILES, read_model, write_model

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
