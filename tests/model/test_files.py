"""A model survives being written as plain values; what is wrong with them is named."""

import json

import numpy as np
import pytest
import torch

from avader.errors import InputError
from avader.mixture.sample import low_likelihood_threshold, mixture_arrays
from avader.model.files import build_model, model_config, model_tensors, parse_config
from avader.model.vade import VaDE
from avader.recipe import Network, Preprocessing

NETWORK = Network(size=16, latent=4, filters=(2, 3), kernels=(3, 5), decoder_kernels=(5, 3))
PREPROCESSING = Preprocessing(size=16, crop=12, stretch="asinh")


@pytest.fixture(scope="module")
def model() -> VaDE:
    torch.manual_seed(1)
    model = VaDE(NETWORK, components=3, variance_floor=1e-3)
    model.set_mixture(np.array([1.0, 2, 3]), np.eye(3, 4), np.full((3, 4), 0.5))
    return model


@pytest.fixture
def config(model) -> dict:
    return {
        "format": "avader-model",
        "version": 1,
        **json.loads(json.dumps(model_config(model, PREPROCESSING))),
    }


def test_a_model_comes_back_whole(model, config):
    parsed = parse_config(config)
    assert parsed.network == NETWORK
    assert parsed.preprocessing == PREPROCESSING
    again = build_model(parsed, model_tensors(model))
    assert not again.training
    assert again.variance_floor == model.variance_floor
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
        assert again.state_dict()[name].dtype == value.dtype


def test_low_likelihood_is_of_the_models_mixture(model, config):
    expected = low_likelihood_threshold(mixture_arrays(model.mixture()))
    assert config["low_likelihood"] == expected


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("network", None, "network: Field required"),
        ("network", {"size": 15}, "network: .*multiple of 4, got 15"),
        ("mixture", {"components": 0}, "mixture.components: .*greater than 0"),
        ("preprocessing", {"stretch": "cubic"}, "preprocessing.stretch"),
        ("low_likelihood", None, "low_likelihood: Field required"),
    ],
)
def test_wrong_configs_are_named(config, section, change, named):
    if change is None:
        del config[section]
    else:
        config[section] |= change
    with pytest.raises(InputError, match=f"wanted a model's config.json, got one with {named}"):
        parse_config(config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mixture_means": None}, r"mixture_means \(3, 4\) is missing"),
        ({"extra": np.zeros(1)}, "extra is unknown"),
        (
            {"decoder.output.bias": np.zeros(2, np.float32)},
            r"decoder.output.bias has shape \(2,\) instead of \(1,\)",
        ),
        (
            {"encoder.heads.bias": np.full(8, np.inf, np.float32)},
            "encoder.heads.bias holds NaN or infinity",
        ),
    ],
)
def test_wrong_arrays_are_named(model, config, change, named):
    tensors = {**model_tensors(model), **change}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(InputError, match=named):
        build_model(parse_config(config), tensors)
