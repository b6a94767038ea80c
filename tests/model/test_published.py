"""The published weights against their own stack's outputs, and the layout against plain numpy."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from avader.errors import InputError
from avader.inference.engine import Engine
from avader.model.files import model_from_arrays
from avader.model.published import NAMES, VARIANCE_FLOOR, Published, read_published
from avader.model.vade import VaDE
from avader.recipe import PUBLISHED_NETWORK, Network
from tests.model import keras_layout
from tests.model.keras_layout import hdf5_bytes, random_weights


def model_of(published: Published) -> VaDE:
    return model_from_arrays(
        published.state,
        network=published.network,
        components=published.components,
        variance_floor=VARIANCE_FLOOR,
    )


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine(model_of(read_published(hdf5_bytes(random_weights()))), tile=4)


@pytest.fixture(scope="module")
def weights_file(real_data):
    return real_data / "astrovader_published" / "saved_weights.h5"


@pytest.fixture(scope="module")
def engine(weights_file) -> Engine:
    return Engine(model_of(read_published(weights_file.read_bytes())))


@pytest.fixture(scope="module")
def reference(real_data):
    return np.load(real_data / "astrovader_published" / "reference_outputs.npz")


def scipy_posterior(z, theta, means, variances):
    """Exact responsibilities in float64; means and variances (K, D)."""
    joint = np.stack(
        [
            np.log(pi) + multivariate_normal(m, np.diag(v)).logpdf(z)
            for pi, m, v in zip(theta / theta.sum(), means, variances, strict=True)
        ],
        axis=1,
    )
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def file_mixture(arrays):
    """theta (K,), means and variances (K, D) in float64, as the file has them."""
    group = "latentGMM_Layer"
    theta, u, variances = (
        np.asarray(arrays[f"{group}/{name}:0"], dtype=np.float64)
        for name in ("theta_p", "u_p", "lambda_p")
    )
    return theta, u.T, variances.T


def test_sizes_are_found_in_the_file():
    published = read_published(hdf5_bytes(random_weights()))
    assert published.components == keras_layout.COMPONENTS
    assert published.network == Network(
        size=16,
        bands=2,
        latent=3,
        filters=(3, 4, 5),
        kernels=(3, 5, 3),
        decoder_kernels=(5, 3, 5),
        upsampling="legacy",
    )


def test_tiny_network_encodes_as_plain_numpy(tiny):
    weights = random_weights()
    images = np.random.default_rng(1).random((5, 2, 16, 16), dtype=np.float32)
    mean, logvar = tiny.encode(images)
    for row, image in enumerate(images):
        expected = keras_layout.encode(image.transpose(1, 2, 0).astype(np.float64), weights)
        np.testing.assert_allclose(mean[row], expected[0], atol=2e-6)
        np.testing.assert_allclose(logvar[row], expected[1], atol=2e-6)
    assert mean.std() > 0.05


def test_tiny_network_decodes_as_plain_numpy(tiny):
    weights = random_weights()
    z = np.random.default_rng(2).normal(0, 2, (5, 3)).astype(np.float32)
    images = tiny.decode(z)
    for row, latent in enumerate(z):
        expected = keras_layout.decode(latent.astype(np.float64), weights).transpose(2, 0, 1)
        np.testing.assert_allclose(images[row], expected, atol=2e-6)
    assert images.std() > 0.05


def test_tiny_mixture_is_the_files(tiny):
    theta, means, variances = file_mixture(random_weights())
    z = np.random.default_rng(3).normal(0, 3, (50, 3)).astype(np.float32)
    expected = scipy_posterior(z.astype(np.float64), theta, means, variances)
    np.testing.assert_allclose(tiny.posterior(z), expected, atol=1e-9)


def test_theta_is_normalised_and_its_sum_told():
    weights = random_weights()
    published = read_published(hdf5_bytes(weights))
    theta = weights["latentGMM_Layer/theta_p:0"].astype(np.float64)
    assert published.theta_sum == pytest.approx(theta.sum())
    np.testing.assert_allclose(np.exp(published.state["mixture_logits"]), theta / theta.sum())


def test_bytes_that_are_no_hdf5_are_refused():
    with pytest.raises(InputError, match="got 11 bytes that h5py cannot read"):
        read_published(b"not weights")


def test_missing_arrays_are_all_named():
    weights = random_weights()
    gone = ["Conv5/Conv5/bias:0", "latentGMM_Layer/u_p:0"]
    for name in gone:
        del weights[name]
    with pytest.raises(InputError, match=r"a file without Conv5/Conv5/bias:0, latentGMM.*u_p:0;"):
        read_published(hdf5_bytes(weights))
    with pytest.raises(InputError) as caught:
        read_published(hdf5_bytes({}))
    assert all(name in str(caught.value) for name in NAMES.values())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv2/Conv2/kernel:0", (3, 3, 7, 3)),
        ("Conv1/Conv1/kernel:0", (3, 3)),
        ("Conv3/Conv3/kernel:0", (4, 4, 3, 4)),
        ("FC3/FC3/kernel:0", (3, 21)),
        ("latentmean/latentmean/kernel:0", (19, 3)),
        ("latentGMM_Layer/lambda_p:0", (3, 5)),
        ("latentGMM_Layer/theta_p:0", ()),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shape):
    weights = random_weights() | {name: np.ones(shape, np.float32)}
    with pytest.raises(InputError, match="wanted"):
        read_published(hdf5_bytes(weights))


def test_weights_that_are_not_numbers_are_refused():
    weights = random_weights()
    weights["Conv4/Conv4/bias:0"][0] = np.nan
    with pytest.raises(InputError, match=r"encoder.blocks.1.2.bias holds NaN"):
        read_published(hdf5_bytes(weights))


def test_published_sizes(weights_file):
    published = read_published(weights_file.read_bytes())
    assert published.network == PUBLISHED_NETWORK
    assert published.components == 12
    assert published.theta_sum == pytest.approx(28.1273, abs=1e-4)
    assert sum(p.numel() for p in model_of(published).parameters()) == 871_381


def test_encoder_is_the_original_stacks(engine, reference):
    mean, logvar = engine.encode(reference["image"][:, None])
    np.testing.assert_allclose(mean, reference["z_mean"], atol=3e-5, rtol=0)
    np.testing.assert_allclose(logvar, reference["logvar"], atol=3e-5, rtol=0)


def test_decoder_is_the_original_stacks(engine, reference):
    decoded = engine.decode(reference["z_mean"])
    np.testing.assert_allclose(decoded[:, 0], reference["decoded"], atol=5e-6, rtol=0)


def test_half_pixel_upsampling_would_not_be(weights_file, reference):
    published = read_published(weights_file.read_bytes())
    network = published.network.model_copy(update={"upsampling": "half-pixel"})
    other = Engine(model_of(published._replace(network=network)))
    decoded = other.decode(reference["z_mean"])
    assert abs(decoded[:, 0] - reference["decoded"]).max() > 0.1


def test_posterior_is_scipys_from_the_files_own_mixture(engine, weights_file, reference):
    import h5py

    with h5py.File(weights_file) as file:
        mixture = file_mixture({name: file[name][()] for name in NAMES.values()})
    z = reference["z_mean"]
    expected = scipy_posterior(z.astype(np.float64), *mixture)
    np.testing.assert_allclose(engine.posterior(z), expected, atol=1e-9, rtol=0)
