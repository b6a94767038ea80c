"""Measures of images, against photutils and by hand."""

import math

import numpy as np
import pytest
import torch
from photutils.aperture import CircularAperture
from photutils.morphology import data_properties, gini
from scipy.optimize import brentq

from avader.catalogue.columns import SYNTHETIC_COLUMNS, TRUTH_NAMES
from avader.images.decode import decode_image
from avader.images.orientation import Orientation, to_sky
from avader.inference.engine import Engine
from avader.synthetic.measure import MEASURES, measured
from tests.tiny import tiny_vade

SIZE = 64


def sersic(generator: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A galaxy on a background (1, size, size), light averaged over 5 x 5 points a pixel."""
    points = (np.arange(5 * size) + 0.5) / 5 - 0.5
    x0, y0 = (size - 1) / 2 + generator.uniform(-3, 3, 2)
    angle, ratio = generator.uniform(0, np.pi), generator.uniform(0.3, 0.95)
    dx, dy = points[None, :] - x0, points[:, None] - y0
    u = dx * np.cos(angle) + dy * np.sin(angle)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / ratio
    n, radius = generator.uniform(0.5, 4), generator.uniform(3, size / 8)
    light = np.exp(-(2 * n - 1 / 3) * ((np.hypot(u, v) / radius) ** (1 / n) - 1))
    image = light.reshape(size, 5, size, 5).mean((1, 3))
    return (0.9 * image / image.max() + 0.05)[None].astype(np.float32)


def by_name(images) -> dict[str, np.ndarray]:
    found = measured(torch.as_tensor(np.asarray(images)))
    assert found.dtype == torch.float32
    return dict(zip(MEASURES, found.numpy().T, strict=True))


def light_of(image: np.ndarray) -> np.ndarray:
    """What is above the background of an image (C, H, W), in float64."""
    summed = image.astype(np.float64).sum(0)
    rim = np.concatenate([summed[0], summed[-1], summed[1:-1, 0], summed[1:-1, -1]])
    return np.clip(summed - np.median(rim), 0, None)


def check(images) -> None:
    """All measures of images against photutils' own of the same light."""
    found, errors = by_name(images), []
    for at, image in enumerate(images):
        light = light_of(image)
        own = {name: float(values[at]) for name, values in found.items()}
        assert own["flux"] == pytest.approx(light.sum(), rel=1e-5)
        properties = data_properties(light)
        centroid = properties.x_centroid, properties.y_centroid
        assert (own["centroid_x"], own["centroid_y"]) == pytest.approx(centroid, abs=1e-3)
        # photutils takes a pixel's light for a point.
        minor, major = np.sqrt(np.linalg.eigvalsh(properties.covariance.value + np.eye(2) / 12))
        assert own["axis_ratio"] == pytest.approx(minor / major, abs=1e-4)
        apart = (own["position_angle"] + properties.orientation.to_value("deg") + 90) % 180 - 90
        assert abs(apart) < (0.05 if minor < 0.9 * major else 3)

        def radius(share, light=light, centroid=centroid):
            def short(r):
                taken = CircularAperture(centroid, r).do_photometry(light, method="exact")[0][0]
                return taken - share * light.sum()

            return brentq(short, 1e-3, 1.5 * len(light))

        inner, half, outer = (radius(share) for share in (0.2, 0.5, 0.8))
        assert own["half_light_radius"] == pytest.approx(half, abs=0.03)
        errors.append(abs(own["concentration"] - 5 * np.log10(outer / inner)))
        y, x = np.indices(light.shape)
        reach = 2 * own["half_light_radius"]
        near = np.hypot(x - own["centroid_x"], y - own["centroid_y"]) <= reach
        assert own["gini"] == pytest.approx(gini(light[near]), abs=5e-4)
    assert np.median(errors) < 0.03
    assert max(errors) < 0.3  # where r20 is below a pixel


def test_of_model_galaxies():
    generator = np.random.default_rng(0)
    check([sersic(generator) for _ in range(60)])


@pytest.mark.long
def test_of_500_galaxies(real_data):
    """400 models, and 100 of the Galaxy Zoo at 128 px with all that lies about them."""
    import pyarrow.parquet as pq

    generator = np.random.default_rng(1)
    check([sersic(generator) for _ in range(400)])
    table = pq.read_table(real_data / "galaxy_zoo_5class.parquet", columns=["image"])
    files = table["image"].slice(0, 100).to_pylist()
    check([decode_image(data).flux / 255 for data in files])


def test_an_image_is_measured_alike_in_any_batch_and_by_any_number_of_threads():
    generator = np.random.default_rng(2)
    images = torch.from_numpy(np.stack([sersic(generator) for _ in range(64)]))
    wanted = measured(images)
    before = torch.get_num_threads()
    try:
        for threads, size in ((1, 1), (2, 7), (2, 16), (1, 33)):
            torch.set_num_threads(threads)
            found = torch.cat([measured(part) for part in images.split(size)])
            assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


def test_bands_are_summed():
    image = sersic(np.random.default_rng(3))
    one, three = by_name([image]), by_name([np.concatenate([image / 2, image / 4, image / 4])])
    for name in MEASURES:
        assert three[name] == pytest.approx(one[name], rel=1e-4), name


def test_position_angle_is_the_orientation_s():
    """An image put on the sky at an angle has that position angle."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    flat = np.exp(-(x**2 / 72 + y**2 / 18))[None].astype(np.float32)  # along x
    for angle in (0.0, 30.0, 75.0, 140.0):
        found = by_name([to_sky(flat, Orientation(angle, 0))])["position_angle"][0]
        assert abs((found - angle + 90) % 180 - 90) < 0.5
    assert 0 <= found < 180


def test_no_light():
    found = by_name(np.full((1, 1, 8, 8), 0.3))
    assert found["flux"] == 0
    assert all(math.isnan(found[name][0]) for name in MEASURES[1:])


def test_one_pixel():
    image = np.zeros((1, 1, 9, 9), np.float32)
    image[0, 0, 3, 5] = 1.5
    found = {name: float(values[0]) for name, values in by_name(image).items()}
    assert (found["flux"], found["centroid_x"], found["centroid_y"]) == (1.5, 5, 3)
    assert found["axis_ratio"] == 1
    assert found["position_angle"] == 0
    assert found["half_light_radius"] == pytest.approx(math.sqrt(0.5 / 3), abs=0.01)
    assert found["concentration"] == pytest.approx(5 * math.log10(2), abs=0.02)


def test_even_light_has_no_gini_and_light_at_the_rim_counts():
    image = np.zeros((1, 1, 32, 32), np.float32)
    image[..., 12:20, 12:20] = 1
    assert by_name(image)["gini"] > 0
    disc = np.zeros((1, 1, 33, 33), np.float32)
    y, x = np.indices((33, 33)) - 16
    disc[0, 0, np.hypot(x, y) <= 12] = 0.5
    found = by_name(disc)
    assert found["half_light_radius"] == pytest.approx(12 / math.sqrt(2), abs=0.15)
    # Within 2 x 8.5 px, of which (12 / 17)^2 is lit evenly: G = 1 - that.
    assert found["gini"] == pytest.approx(1 - (12 / 17) ** 2, abs=0.02)
    corner = np.zeros((1, 1, 16, 16), np.float32)
    corner[..., 0, 0] = 1
    found = by_name(corner)
    assert (found["flux"], found["centroid_x"], found["centroid_y"]) == (1, 0, 0)


@pytest.mark.parametrize("size", [(3, 3), (3, 40), (9, 16), (1, 16), (16, 1), (2, 2), (1, 2)])
def test_small_and_long_frames(size):
    image = np.zeros((1, 1, *size), np.float32)
    image[0, 0, -1, -1] = 5.0
    found = by_name(image)
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_pixel_or_none():
    assert measured(torch.zeros(0, 1, 8, 8)).shape == (0, len(MEASURES))
    assert by_name(np.ones((1, 1, 1, 1), np.float32))["flux"] == 0


def test_what_is_not_finite_spoils_its_own_image_alone():
    images = np.stack([sersic(np.random.default_rng(seed)) for seed in range(3)])
    wanted = measured(torch.from_numpy(images))
    images[1, 0, 5, 5] = np.nan
    found = measured(torch.from_numpy(images))
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])


def test_angles_stay_below_180_and_have_no_minus():
    image = np.zeros((1, 1, 33, 65), np.float32)
    image[0, 0, 16, 2:60] = 1
    assert math.copysign(1, by_name(image)["position_angle"][0]) == 1
    image[0, 0, 17, 58] = 1e-5  # a hair below the x axis
    assert by_name(image)["position_angle"][0] == 0


def test_every_measure_has_its_column():
    names = [column.name for column in SYNTHETIC_COLUMNS]
    assert [name for name in names if name in MEASURES] == list(MEASURES)
    assert {"log_likelihood", *MEASURES} == TRUTH_NAMES


def test_a_gpu_s_compiler_can_take_it_whole():
    image = torch.from_numpy(sersic(np.random.default_rng(4))[None])
    traced = torch.compile(measured, fullgraph=True, dynamic=False, backend="eager")
    assert torch.equal(traced(image), measured(image))


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(),
                                                          reason="no GPU here"))],
)  # fmt: skip
def test_engine_measures_what_it_decodes(device):
    engine = Engine(tiny_vade(), tile=8, device=device)
    z = np.random.default_rng(5).normal(size=(21, 3)).astype(np.float32)
    pixels, numbers = engine.decode_measured(z, measured)
    wanted = measured(torch.from_numpy(engine.decode(z))).numpy()
    if device == "cpu":
        np.testing.assert_array_equal(pixels, engine.decode_pixels(z))
        np.testing.assert_array_equal(numbers, wanted)
    else:  # each is compiled by itself
        assert abs(pixels.astype(int) - engine.decode_pixels(z)).max() <= 1
        np.testing.assert_allclose(numbers, wanted, rtol=1e-3, atol=1e-3)
    alone, measures = engine.decode_measured(z[7:8], measured)
    np.testing.assert_array_equal(alone[0], pixels[7])
    np.testing.assert_array_equal(measures[0], numbers[7])
