"""An image's numbers are the same bits whatever lies beside it; arithmetic is as declared."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from avader.errors import InputError
from avader.inference import lanes
from avader.inference.checks import check_compiler, check_device
from avader.inference.engine import DENSITY_TILE, Engine, exact_arithmetic
from avader.inference.lanes import check_tile
from avader.model.vade import VaDE
from avader.recipe import PUBLISHED_NETWORK, Network

NETWORK = Network(
    size=16, bands=1, latent=5, filters=(8, 8), kernels=(3, 5), decoder_kernels=(5, 5)
)
ROWS = 40


@pytest.fixture(scope="module")
def model() -> VaDE:
    torch.manual_seed(0)
    model = VaDE(NETWORK, components=4, variance_floor=1e-4)
    rng = np.random.default_rng(0)
    model.set_mixture(rng.dirichlet(np.ones(4)), rng.normal(0, 2, (4, 5)), rng.random((4, 5)) + 0.1)
    return model


@pytest.fixture(scope="module")
def engine(model) -> Engine:
    return Engine(model, tile=8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (ROWS, 1, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def alone(engine, images):
    """Every image computed by itself: mean, logvar, decoded, posteriors, log likelihood."""
    return [all_numbers(engine, image[None]) for image in images]


def all_numbers(engine, images):
    mean, logvar = engine.encode(images)
    z = mean
    posteriors = engine.posterior(z), engine.integrated_posterior(mean, logvar)
    return mean, logvar, engine.decode(z), *posteriors, engine.log_likelihood(z)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
@given(order=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=30))
def test_numbers_are_the_same_bits_in_any_company(engine, images, alone, order):
    together = all_numbers(engine, images[order])
    for row, number in enumerate(order):
        for several, one in zip(together, alone[number], strict=True):
            assert several[row].tobytes() == one[0].tobytes()


def test_numbers_are_the_same_bits_for_any_threads(engine, images):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = all_numbers(engine, images)
        torch.set_num_threads(2)
        two = all_numbers(engine, images)
    finally:
        torch.set_num_threads(before)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


def test_densities_are_the_same_bits_across_their_own_tiles(engine):
    z = np.random.default_rng(2).normal(0, 3, (2 * DENSITY_TILE + 7, 5))
    g, likelihood = engine.posterior(z), engine.log_likelihood(z)
    broad = engine.integrated_posterior(z, -z)
    shift = 101
    assert engine.integrated_posterior(z[shift:], -z[shift:]).tobytes() == broad[shift:].tobytes()
    assert engine.posterior(z[shift:]).tobytes() == g[shift:].tobytes()
    assert engine.log_likelihood(z[shift:]).tobytes() == likelihood[shift:].tobytes()


def test_every_convolution_is_channels_last(engine, images):
    """What it gives, and its weights."""
    seen = []
    layers = [
        layer
        for part in (engine.encoder, engine.decoder)
        for layer in part.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    hooks = [layer.register_forward_hook(lambda *step: seen.append(step[-1])) for layer in layers]
    mean, _ = engine.encode(images)
    engine.decode(mean)
    for hook in hooks:
        hook.remove()
    assert len(seen) >= len(layers) > 4
    for each in [*seen, *(layer.weight for layer in layers)]:
        assert each.is_contiguous(memory_format=torch.channels_last)


def test_numbers_are_the_models(engine, model, images):
    x = torch.from_numpy(images / np.float32(255))
    with torch.no_grad():
        mean, logvar = model.encode(x)
        decoded = model.decode(mean)
    ours = all_numbers(engine, images)
    for got, expected in zip(ours, (mean, logvar, decoded), strict=False):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    assert [part.dtype for part in ours] == [np.float32] * 3 + [np.float64] * 3


def test_bytes_become_floats_as_numpy_divides(engine, images):
    everything = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for x in (everything, images):
        as_bytes = engine.encode(x)
        as_floats = engine.encode(x.astype(np.float32) / np.float32(255))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(as_bytes, as_floats, strict=True))


def test_decoded_pixels_are_rounded_as_numpy_rounds(engine):
    z = np.random.default_rng(3).normal(0, 99, (ROWS, 5)).astype(np.float32)
    floats, pixels = engine.decode(z), engine.decode_pixels(z)
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) == set(range(256))  # and some were clipped:
    assert (floats > 1).any()
    np.testing.assert_array_equal(pixels, np.rint(np.clip(floats, 0, 1) * np.float32(255)))


def test_half_precision_pixels_are_taken_exactly(engine, images):
    half = (images / 255).astype(np.float16)
    ours, expected = engine.encode(half), engine.encode(half.astype(np.float32))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, expected, strict=True))


def test_no_rows(engine):
    shapes = [part.shape for part in all_numbers(engine, np.zeros((0, 1, 16, 16), np.uint8))]
    assert shapes == [(0, 5), (0, 5), (0, 1, 16, 16), (0, 4), (0, 4), (0,)]


def test_bfloat16_is_close_and_comes_back_as_float32(model, engine, images):
    fast = Engine(model, tile=8, precision="bfloat16")
    ours, expected = all_numbers(fast, images), all_numbers(engine, images)
    assert [part.dtype for part in ours] == [part.dtype for part in expected]
    scale = np.abs(expected[0]).max()
    assert 0 < np.abs(ours[0] - expected[0]).max() < 0.05 * scale
    assert next(model.encoder.parameters()).dtype == torch.float32  # the model is left as it is


def test_bfloat16_takes_and_gives_latents_in_float32(model, engine, images):
    """Latents that are one in bfloat16 give other images, and means lie between its numbers."""
    fast = Engine(model, tile=8, precision="bfloat16")
    mean = torch.from_numpy(fast.encode(images)[0])
    assert (mean != mean.bfloat16()).float().mean() > 0.9
    coarse = mean.bfloat16().float()
    finer = coarse * (1 + 2**-10)
    assert finer.bfloat16().equal(coarse.bfloat16())
    assert (fast.decode(finer.numpy()) != fast.decode(coarse.numpy())).any(axis=(1, 2, 3)).all()


def test_values_that_are_not_finite_stay_visible(engine):
    z = np.zeros((3, 5), np.float32)
    z[1, 0] = np.nan
    assert np.isnan(engine.posterior(z)).any(axis=1).tolist() == [False, True, False]
    assert np.isnan(engine.log_likelihood(z)).tolist() == [False, True, False]
    for mean, logvar in ((z, np.zeros_like(z)), (np.zeros_like(z), z)):
        broad = engine.integrated_posterior(mean, logvar)
        assert np.isnan(broad).any(axis=1).tolist() == [False, True, False]


def test_arithmetic_settings_are_put_back():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_unknown_devices_and_precisions_are_refused(model):
    with pytest.raises(InputError, match="device: wanted one of this machine's"):
        Engine(model, device="abacus")
    with pytest.raises(InputError, match="precision: wanted float32 or bfloat16, got 'float8'"):
        Engine(model, precision="float8")
    assert check_device("cpu").type == "cpu"


def test_a_gpu_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with monkeypatch.context() as bare:
        bare.setenv("PATH", "/nowhere")
        wanted = "wanted triton and a C compiler, got no triton and no C compiler; install"
        with pytest.raises(InputError, match=wanted):
            check_compiler("cuda")
    monkeypatch.setenv("CC", "clang")
    with pytest.raises(InputError, match="got no triton; install"):
        check_compiler("cuda")


def test_a_tile_that_a_gpu_has_no_memory_for(monkeypatch):
    """Two of 12.6 MB an image are under way."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**30, 80 * 2**30))
    gpu = torch.device("cuda")
    check_tile(64, PUBLISHED_NETWORK, gpu)
    wanted = r"tile: wanted at most 128 images at once, .* 3\.0 GiB .* got 256; take a smaller"
    with pytest.raises(InputError, match=wanted):
        check_tile(256, PUBLISHED_NETWORK, gpu)
    check_tile(256, PUBLISHED_NETWORK, torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "free", "tile"), [("cpu", 0, 16), ("cuda", 80, 256), ("cuda", 4, 32)]
)
def test_a_tile_that_suits_a_device(monkeypatch, device, free, tile):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    assert lanes.suiting_tile(PUBLISHED_NETWORK, torch.device(device)) == tile


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(model):
    with pytest.raises(InputError, match=r"device: wanted one of this machine's.*'cuda'"):
        Engine(model, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gpu_agrees_with_the_cpu(model, images, precision):
    on_cpu, on_gpu = (
        Engine(model, tile=8, device=device, precision=precision) for device in ("cpu", "cuda")
    )
    scale = 1e-4 if precision == "float32" else 0.1
    for got, expected in zip(all_numbers(on_gpu, images), all_numbers(on_cpu, images), strict=True):
        np.testing.assert_allclose(got, expected, atol=scale, rtol=scale)
    z = on_cpu.encode(images)[0]
    floats, pixels = on_gpu.decode(z), on_gpu.decode_pixels(z)
    rounded = np.rint(np.clip(floats, 0, 1) * np.float32(255))
    assert np.abs(pixels - rounded).max() <= 1  # each is compiled by itself
    assert (pixels != rounded).mean() < 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_more_engines_than_torch_compiles_of_one_code(model, images):
    first, *others = (Engine(model, tile=8, device="cuda").encode(images)[0] for _ in range(12))
    assert all(other.tobytes() == first.tobytes() for other in others)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_numbers_of_a_gpu_are_the_same_bits_in_any_company(model, images, precision):
    """Also from another engine."""
    on_gpu = Engine(model, tile=8, device="cuda", precision=precision)
    together = all_numbers(on_gpu, images)
    for row, image in enumerate(images):
        for several, one in zip(together, all_numbers(on_gpu, image[None]), strict=True):
            assert several[row].tobytes() == one[0].tobytes()
    again = all_numbers(Engine(model, tile=8, device="cuda", precision=precision), images[::-1])
    for several, others in zip(together, again, strict=True):
        assert several.tobytes() == others[::-1].tobytes()


@pytest.mark.parametrize("tile", [0, -1])
def test_no_images_at_once_are_refused(model, tile):
    with pytest.raises(InputError, match=f"tile: wanted at least 1 image at once, got {tile}"):
        Engine(model, tile=tile)


def test_lanes_that_a_gpu_has_no_memory_left_for(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lanes, "Lane", full)
    monkeypatch.setattr(torch, "compile", lambda compute, **_: compute)
    wanted = "tile: the GPU lacks memory for 4 images at once; take a smaller one: CUDA out"
    with pytest.raises(InputError, match=wanted):
        lanes.Lanes(torch.square, torch.zeros(4, 2), torch.device("cuda"))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_variance_that_is_not_finite_gives_none_of_the_probabilities(engine, value):
    mean, logvar = np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32)
    logvar[1, 2] = value
    found = engine.integrated_posterior(mean, logvar)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]].sum(axis=1), 1)
