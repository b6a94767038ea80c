"""Up-sampling against its definition, sizes, and the mixture's parameters."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from avader.errors import InputError
from avader.model.networks import (
    LegacyUpsample,
    bilinear,
    down_block,
    inner_features,
    output_activation,
    up_block,
)
from avader.model.vade import VaDE
from avader.recipe import PUBLISHED_NETWORK, Network
from tests.model import keras_layout

NETWORK = Network(
    size=16, bands=3, latent=4, filters=(2, 5), kernels=(3, 5), decoder_kernels=(5, 3)
)


@pytest.fixture
def model() -> VaDE:
    torch.manual_seed(0)
    return VaDE(NETWORK, components=3, variance_floor=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 2), (5, 7)])
def test_legacy_upsampling_is_tensorflow_1s(shape):
    x = np.random.default_rng(0).random((*shape, 3))
    expected = keras_layout.upsample(x)
    up = LegacyUpsample()(torch.from_numpy(x.transpose(2, 0, 1)[None]))[0]
    np.testing.assert_allclose(up.permute(1, 2, 0), expected, rtol=1e-14)


def test_half_pixel_upsampling_by_hand():
    up = bilinear(NETWORK)(torch.tensor([[[[0.0, 4.0]]]]))
    assert up.tolist() == [[[[0.0, 1.0, 3.0, 4.0]] * 2]]


def test_shapes_follow_the_network(model):
    x, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 4)
    mean, logvar, z, image = model(x, noise)
    assert mean.shape == logvar.shape == z.shape == (2, 4)
    assert image.shape == x.shape
    assert inner_features(NETWORK) == 5 * 4 * 4
    torch.testing.assert_close(z, mean + (logvar / 2).exp() * noise)
    torch.testing.assert_close(model.decode(z), image)


def test_published_sizes():
    with torch.device("meta"):
        model = VaDE(PUBLISHED_NETWORK, components=12, variance_floor=1e-7)
    assert sum(p.numel() for p in model.parameters()) == 871_381


VARIANTS = [
    {
        "convolutions": 1,
        "decoder_convolutions": 1,
        "normalisation": "group",
        "reduction": "stride",
    },
    {"blocks": "residual", "upsample": "before"},
    {"blocks": "residual", "upsampling": "pixel-shuffle", "decoder_convolutions": 3},
    {"upsampling": "pixel-shuffle", "upsample": "before", "normalisation": "group"},
    {"decoder": "dense", "decoder_widths": (7,)},
    {"decoder_filters": (3, 2), "upsampling": "pixel-shuffle"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_keep_shapes_and_pass_gradients(variant):
    torch.manual_seed(0)
    network = NETWORK.model_copy(update=variant)
    model = VaDE(network, components=3, variance_floor=1e-3)
    _, _, _, image = model(torch.rand(2, 3, 16, 16), torch.randn(2, 4))
    assert image.shape == (2, 3, 16, 16)
    (image - 0.5).square().sum().backward()
    used = [n for n, p in model.named_parameters() if not n.startswith("mixture_")]
    assert [n for n in used if model.get_parameter(n).grad is None] == []


def test_residual_steps_add_to_what_they_are_given():
    network = NETWORK.model_copy(update={"blocks": "residual"})
    first, *_, residual, pool = down_block(network, 3, 4, 3)
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.zero_()
    x = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(residual(x), x)
    assert first.out_channels == 4
    assert isinstance(pool, torch.nn.MaxPool2d)


def test_group_normalisation_is_the_same_in_any_batch():
    torch.manual_seed(0)
    network = NETWORK.model_copy(update={"normalisation": "group"})
    model = VaDE(network, components=3, variance_floor=1e-3).double()
    x = torch.rand(5, 3, 16, 16, dtype=torch.float64)
    alone, _ = model.encode(x[:1])
    together, _ = model.encode(x)
    torch.testing.assert_close(alone[0], together[0])


def test_upsampling_before_the_convolutions_doubles_first():
    before = up_block(NETWORK.model_copy(update={"upsample": "before"}), 2, 3, 3)
    after = up_block(NETWORK, 2, 3, 3)
    assert isinstance(before[0], torch.nn.Upsample)
    assert isinstance(after[-1], torch.nn.Upsample)
    assert before(torch.rand(1, 2, 4, 4)).shape == after(torch.rand(1, 2, 4, 4)).shape


def test_outputs_end_as_asked(model):
    z = torch.randn(8, 4)
    assert model.decode(z).min() == 0
    sigmoid = VaDE(
        NETWORK.model_copy(update={"output": "sigmoid"}), components=3, variance_floor=1e-3
    )
    image = sigmoid.decode(z)
    assert 0 < image.min() < image.max() < 1


def test_mixture_goes_in_and_out(model):
    rng = np.random.default_rng(1)
    weights, means = rng.uniform(1, 2, 3), rng.normal(0, 3, (3, 4))
    variances = rng.uniform(0.01, 5, (3, 4))
    model.set_mixture(weights, means, variances)
    mixture = model.mixture()
    assert all(part.dtype == torch.float64 for part in mixture)
    parts = [part.detach().numpy() for part in mixture]
    np.testing.assert_allclose(np.exp(parts[0]), weights / weights.sum(), rtol=1e-14)
    np.testing.assert_array_equal(parts[1], means)
    np.testing.assert_allclose(parts[2], variances, rtol=1e-14)


def test_variances_keep_above_the_floor_and_trainable(model):
    model.set_mixture(np.array([1.0, 0, 0]), np.zeros((3, 4)), np.full((3, 4), 1e-9))
    mixture = model.mixture()
    assert torch.isfinite(mixture.log_weights).all()
    assert (mixture.variances > 1e-3).all()
    assert (mixture.variances < 1.01e-3).all()
    mixture.variances.log().sum().backward()
    assert (model.mixture_log_variances.grad > 0).all()


@pytest.mark.parametrize(
    ("weights", "means", "variances", "named"),
    [
        (np.ones(2), np.zeros((2, 4)), np.ones((2, 4)), "mixture_logits"),
        (np.ones(3), np.zeros((3, 5)), np.ones((3, 4)), "mixture_means"),
        (-np.ones(3), np.zeros((3, 4)), np.ones((3, 4)), "mixture weights"),
        (np.zeros(3), np.zeros((3, 4)), np.ones((3, 4)), "mixture weights"),
        (np.ones(3), np.full((3, 4), np.nan), np.ones((3, 4)), "mixture means"),
        (np.ones(3), np.zeros((3, 4)), np.zeros((3, 4)), "mixture variances"),
    ],
)
def test_wrong_mixtures_are_refused(model, weights, means, variances, named):
    with pytest.raises(InputError, match=f"{named}: wanted"):
        model.set_mixture(weights, means, variances)


def test_weights_begin_as_keras_begins_them(model):
    dense = model.decoder.dense
    bound = np.sqrt(6 / sum(dense.weight.shape))
    assert dense.weight.abs().max() <= bound
    assert dense.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    assert dense.bias.abs().max() == 0


def test_a_saturated_pixel_still_learns_under_autocast():
    """In bfloat16 the sigmoid of 8 would be 1, where the cross-entropy has no gradient."""
    last = output_activation(NETWORK.model_copy(update={"output": "sigmoid"}))
    logit = torch.full((1,), 8.0, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        pixel = last(logit)
    assert pixel.dtype == torch.float32
    functional.binary_cross_entropy(pixel, torch.zeros(1)).backward()
    assert float(logit.grad) == pytest.approx(1, rel=1e-2)
    assert last(logit).dtype == torch.bfloat16
