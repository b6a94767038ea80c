"""load_model on a model folder: numpy in, numpy out, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import avader
from avader.errors import InputError
from avader.io.models import write_model
from avader.mixture.sample import mixture_arrays, sample
from avader.model.files import model_config, model_tensors
from avader.model.vade import VaDE
from avader.recipe import Network, Preprocessing

NETWORK = Network(
    size=16, bands=2, latent=5, filters=(4, 4), kernels=(3, 3), decoder_kernels=(3, 3)
)


@pytest.fixture(scope="module")
def vade() -> VaDE:
    torch.manual_seed(3)
    vade = VaDE(NETWORK, components=4, variance_floor=1e-4)
    rng = np.random.default_rng(0)
    vade.set_mixture(rng.dirichlet(np.ones(4)), rng.normal(0, 2, (4, 5)), rng.random((4, 5)) + 0.1)
    return vade


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vade) -> str:
    uri = str(tmp_path_factory.mktemp("models") / "tiny")
    config = model_config(vade, Preprocessing(size=16))
    write_model(uri, config=config, tensors=model_tensors(vade), card={"kind": "test"})
    return uri


@pytest.fixture(scope="module")
def model(folder):
    return avader.load_model(folder)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 2, 16, 16), dtype=np.uint8)


def test_the_round_trip_of_an_image(model, vade, images):
    mean, logvar = model.encode(images)
    assert mean.shape == logvar.shape == (3, 5)
    assert mean.dtype == logvar.dtype == np.float32
    with torch.no_grad():
        expected = vade.encode(torch.from_numpy(images / np.float32(255)))[0]
    np.testing.assert_allclose(mean, expected, atol=2e-6)
    g = model.posterior(mean)
    assert g.shape == (3, 4)
    assert g.dtype == np.float64
    np.testing.assert_allclose(g.sum(axis=1), 1, atol=1e-12)
    assert model.log_likelihood(mean).shape == (3,)
    broad = model.integrated_posterior(mean, logvar)
    assert broad.shape == (3, 4)
    assert broad.dtype == np.float64
    np.testing.assert_allclose(broad.sum(axis=1), 1, atol=1e-12)
    decoded = model.decode(mean)
    assert decoded.shape == (3, 2, 16, 16)
    assert decoded.dtype == np.float32


def test_a_models_identity(model):
    assert model.card["kind"] == "test"
    assert len(model.digest) == 64
    assert model.config["preprocessing"]["size"] == 16
    assert np.isfinite(model.config["low_likelihood"])


def test_floats_and_bytes_are_the_same_image(model, images):
    floats = images.astype(np.float32) / np.float32(255)
    assert (model.encode(images)[0] == model.encode(floats)[0]).all()
    assert model.encode(floats.astype(np.float16))[0].shape == (3, 5)


def test_sampling_is_the_mixtures(model, vade):
    z, component = model.sample(10, 7, start=90, components=[1, 3], variance_scale=0.5)
    expected = sample(
        mixture_arrays(vade.mixture()),
        count=10,
        seed=7,
        start=90,
        components=[1, 3],
        variance_scale=0.5,
    )
    assert z.tobytes() == expected[0].tobytes()
    assert component.tobytes() == expected[1].tobytes()
    assert set(component.tolist()) <= {1, 3}
    assert model.decode(z).min() >= 0


def test_bfloat16_and_tiles_can_be_asked_for(folder, model, images):
    fast = avader.load_model(folder, precision="bfloat16", tile=2)
    np.testing.assert_allclose(fast.encode(images)[0], model.encode(images)[0], atol=0.1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros((2, 16, 16), np.uint8), r"wanted shape \(B, 2, 16, 16\).*got \(2, 16, 16\)"),
        (np.zeros((3, 1, 16, 16), np.uint8), r"got \(3, 1, 16, 16\)"),
        (np.zeros((3, 2, 16, 16), np.float64), "wanted uint8, or float32.*got float64"),
        (np.zeros((3, 2, 16, 16), np.int16), "got int16"),
        (np.full((3, 2, 16, 16), 255, np.float32), r"wanted float32 in \[0, 1\], got 255 to 255"),
        (np.full((3, 2, 16, 16), -0.01, np.float32), r"got -0.01 to -0.01"),
        (np.full((3, 2, 16, 16), np.nan, np.float32), "got nan to nan"),
        (np.full((3, 2, 16, 16), 2, np.float16), r"wanted float16 in \[0, 1\], got 2"),
        ([[1, 2]], "wanted a numpy array, got list"),
    ],
)
def test_wrong_images_are_refused(model, wrong, told):
    with pytest.raises(InputError, match=told):
        model.encode(wrong)


@pytest.mark.parametrize("method", ["posterior", "log_likelihood", "decode"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros(5, np.float32), r"z: wanted shape \(B, 5\) for this model, got \(5,\)"),
        (np.zeros((2, 4), np.float32), r"got \(2, 4\)"),
        (np.zeros((2, 5), np.int64), "z: wanted float32 or float64, got int64"),
        (None, "z: wanted a numpy array, got NoneType"),
    ],
)
def test_wrong_latents_are_refused(model, method, wrong, told):
    with pytest.raises(InputError, match=told):
        getattr(model, method)(wrong)


def test_wrong_posteriors_are_refused(model):
    mean = np.zeros((2, 5), np.float32)
    with pytest.raises(InputError, match=r"mean: wanted shape \(B, 5\).*got \(5,\)"):
        model.integrated_posterior(mean[0], mean)
    with pytest.raises(InputError, match="logvar: wanted float32 or float64, got float16"):
        model.integrated_posterior(mean, mean.astype(np.float16))
    with pytest.raises(InputError, match="as many rows of mean as of logvar, got 2 and 1"):
        model.integrated_posterior(mean, mean[:1])


def test_wrong_requests_are_refused(folder, model, tmp_path):
    with pytest.raises(InputError, match="components: wanted distinct numbers from 0 to 3"):
        model.sample(1, 0, components=[4])
    with pytest.raises(InputError, match="wanted one at least, got none"):
        model.sample(1, 0, components=[])
    with pytest.raises(InputError, match="wanted a model folder"):
        avader.load_model(str(tmp_path))
    with pytest.raises(InputError, match="precision: wanted float32 or bfloat16"):
        avader.load_model(folder, precision="float64")
    with pytest.raises(InputError, match="device: wanted"):
        avader.load_model(folder, device="abacus")


def test_public_names_load_on_first_use():
    code = (
        "import sys, avader; heavy = ('torch', 'ray', 'pyarrow', 'numpy'); "
        "assert not [m for m in heavy if m in sys.modules]; "
        "assert avader.__version__; "
        "assert not [m for m in heavy if m in sys.modules]; "
        "avader.load_model; assert 'torch' in sys.modules; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'avader' has no attribute 'magic'"):
        avader.magic  # noqa: B018
    assert set(avader.__all__) <= set(dir(avader))


def test_components_may_be_an_array(folder):
    model = avader.load_model(folder)
    wanted = model.sample(20, 1, components=[1, 3])
    for given in (np.array([1, 3]), (1, 3)):
        for found, expected in zip(model.sample(20, 1, components=given), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["filters", "decoder_widths"])
def test_a_network_without_layers_is_no_network(name):
    with pytest.raises(ValueError, match=f"{name}\n.*at least 1 item"):
        Network(**{name: ()})
