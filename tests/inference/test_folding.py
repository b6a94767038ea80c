"""The folded network is the network: compared in float64, where rounding cannot hide a mistake."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from avader.inference.folding import Folded, fast_decoder, fast_encoder
from avader.model.networks import Decoder, Encoder, LegacyUpsample, decoder, initialise
from avader.recipe import PUBLISHED_NETWORK, Network

UPS = {
    "legacy": LegacyUpsample(),
    "half-pixel": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
}


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (3, 3), (5, 8), (16, 16), (7, 31)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("kind", UPS)
def test_one_convolution_is_both_steps(kind, kernel, size):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel, padding=kernel // 2).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = convolution(UPS[kind](x))
        got = Folded(UPS[kind], convolution, size)(x)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", UPS)
def test_fewer_taps(kind):
    """64 for the 100 of a 5 x 5 kernel on four pixels."""
    folded = Folded(UPS[kind], nn.Conv2d(1, 1, 5, padding=2), (8, 8))
    assert folded.inner.weight.shape == (4, 1, 4, 4)


TWO = {"filters": (8, 4), "kernels": (3, 5), "decoder_kernels": (5, 3), "latent": 3}
NETWORKS = {
    "published": PUBLISHED_NETWORK,
    "half-pixel": Network(size=24, upsampling="half-pixel", **TWO),
    "upsample before": Network(size=20, upsampling="legacy", upsample="before", **TWO),
    "residual": Network(size=24, bands=3, blocks="residual", **TWO),
    "pixel-shuffle": Network(size=16, upsampling="pixel-shuffle", normalisation="group", **TWO),
    "dense": Network(size=16, reduction="stride", decoder="dense", decoder_widths=(9,), **TWO),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_whole_networks(network):
    torch.manual_seed(1)
    plain = Encoder(network).double(), decoder(network).double()
    x = torch.rand(2, network.bands, network.size, network.size, dtype=torch.float64)
    z = torch.randn(2, network.latent, dtype=torch.float64)
    with torch.no_grad():
        expected = [*plain[0](x), plain[1](z)]
        features, heads = fast_encoder(copy.deepcopy(plain[0]))
        dense, images = fast_decoder(copy.deepcopy(plain[1]))
        got = [*heads(features(x)).chunk(2, dim=1), images(dense(z))]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_published_decoder_is_folded_throughout():
    _, made = fast_decoder(Decoder(PUBLISHED_NETWORK))
    assert sum(isinstance(step, Folded) for step in made) == 3
    assert not any(isinstance(step, LegacyUpsample) for step in made)


def test_the_published_encoder_pools_before_its_leaky_relus():
    """Those commute with it, and have a quarter of the values then."""
    steps = [*fast_encoder(Encoder(PUBLISHED_NETWORK))[0]]
    after = [type(last) for last, step in pairwise(steps) if isinstance(step, nn.LeakyReLU)]
    assert after.count(nn.MaxPool2d) == len(PUBLISHED_NETWORK.filters)
    assert [type(step) for step in steps].count(nn.MaxPool2d) == len(PUBLISHED_NETWORK.filters)


def test_rounding_is_no_worse():
    """Against float64, on the published sizes: as near as the plain float32 network."""
    torch.manual_seed(2)
    plain = Decoder(PUBLISHED_NETWORK).apply(initialise)
    nn.init.constant_(plain.output.bias, 1.0)  # or its ReLU might be 0 everywhere
    z = 3 * torch.randn(16, 20)
    with torch.no_grad():
        exact = copy.deepcopy(plain).double()(z.double())
        folded = nn.Sequential(*fast_decoder(copy.deepcopy(plain))).float()
        errors = [
            np.abs((made(z).double() - exact).numpy()).max() / float(exact.abs().max())
            for made in (plain, folded)
        ]
    assert errors[1] <= 1.5 * errors[0] + 1e-7
