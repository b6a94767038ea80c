"""How a source lies, and the turn to the canonical frame and back, on galaxies of known shape."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from avader.images.cutouts import prepare
from avader.images.decode import Image, decode_image
from avader.images.orientation import (
    FLIP_X,
    FLIP_Y,
    Orientation,
    core,
    find_orientation,
    mask_to_canonical,
    to_sky,
)
from avader.images.source import find_source, radius
from avader.recipe import Preprocessing
from tests.images.oracles import KERNELS

CANONICAL = Preprocessing(size=64, orientation="canonical", dtype="float16")
ORIENTATIONS = st.builds(
    Orientation, st.floats(0, 180, exclude_max=True, width=32), st.integers(0, 3)
)


def blob(angle=0.0, *, side=64, centre=(0.0, 0.0), sigmas=(9.0, 4.0), flux=100.0) -> np.ndarray:
    """An elliptical Gaussian (side, side); centre (right, up) px, angle counter-clockwise."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    x, y = x - centre[0], -y - centre[1]
    turn = np.exp(1j * np.radians(angle))
    along, across = (x * turn.real + y * turn.imag), (y * turn.real - x * turn.imag)
    return flux * np.exp(-((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2) / 2)


def lopsided(angle=20.0, side=64, **options) -> np.ndarray:
    """A galaxy with more light beyond +x and above its own axis, turned by an angle."""
    turn = np.exp(1j * np.radians(angle))
    light = blob(angle, side=side, **options)
    for x, y, share in ((14, 0, 0.25), (0, 6, 0.2)):
        place = (x + 1j * y) * turn * side / 64
        light = light + share * blob(
            angle, side=side, centre=(place.real, place.imag), sigmas=(5 * side / 64, 3 * side / 64)
        )
    return light


def image(flux: np.ndarray) -> Image:
    flux = np.asarray(flux, np.float32)
    flux = flux[np.newaxis] if flux.ndim == 2 else flux
    empty = np.zeros(flux.shape[1:], bool)
    return Image(flux, empty, empty)


def found(light: np.ndarray) -> Orientation:
    return find_orientation(light, find_source(light))


def apart(one: float, other: float) -> float:
    """Degrees between two axes."""
    return abs((one - other + 90) % 180 - 90)


def inside(size: int, share: float = 0.95) -> np.ndarray:
    return radius((size, size)) <= share


def axis(light: np.ndarray) -> float:
    """Angle of the second moments of all light, by the eigenvectors of its covariance."""
    y, x = np.mgrid[: len(light), : len(light)]
    covariance = np.cov(np.stack([x.ravel(), -y.ravel()]), aweights=light.ravel())
    right, up = np.linalg.eigh(covariance)[1][:, -1]
    return float(np.degrees(np.arctan2(up, right)))


class TestFound:
    @pytest.mark.parametrize("angle", [0, 17.3, 45, 90, 121.7, 163, 179.9])
    @pytest.mark.parametrize("noise", [0, 1])
    def test_angle_of_an_elongated_gaussian(self, angle, noise):
        sky = 10 + noise * np.random.default_rng(0).normal(size=(64, 64))
        assert apart(found(blob(angle) + sky).angle, angle) < 0.5

    @pytest.mark.parametrize("centre", [(1, -0.7), (4, -3), (-3, -4)])
    def test_a_source_off_the_centre(self, centre):
        light = blob(30, centre=centre, sigmas=(9, 6))
        assert core(light) == pytest.approx(centre, abs=0.2)
        assert apart(found(light).angle, 30) < 0.5

    def test_core_of_what_has_none_near_the_centre(self):
        far = blob(centre=(20, 0), sigmas=(3, 3))
        assert core(far) == core(np.zeros((64, 64))) == (0, 0)

    @pytest.mark.parametrize(("place", "flux"), [((20, 20), 300), ((10, 10), 90)])
    def test_companions_apart_or_touching_do_not_turn_it(self, place, flux):
        light = blob(155, sigmas=(9, 7)) + blob(centre=place, sigmas=(2, 2), flux=flux)
        assert apart(found(light).angle, 155) < 1
        assert apart(axis(light), 155) > 5  # bright enough to turn it, if counted

    def test_a_source_larger_than_the_image_is_not_drawn_to_the_corners(self):
        assert apart(found(blob(20, sigmas=(60, 40))).angle, 20) < 3

    def test_round_blank_and_constant(self):
        noise = np.random.default_rng(1).normal(size=(64, 64))
        assert found(blob(sigmas=(6, 6))) == Orientation(0.0, 0)
        assert found(np.full((64, 64), 7.0)) == Orientation(0.0, 0)
        for light in (blob(sigmas=(6, 6)) + noise, noise):
            one = found(light)
            assert 0 <= one.angle < 180
            assert one == found(light.copy())

    @given(st.integers(8, 40), st.integers(0, 2**32 - 1))
    @settings(deadline=None, max_examples=40)
    def test_any_image_has_a_storable_orientation(self, side, seed):
        generator = np.random.default_rng(seed)
        light = generator.choice([generator.normal(size=(side, side)), blob(7, side=side)])
        one = found(light * 10.0 ** generator.integers(-30, 30))
        assert 0 <= one.angle < 180
        assert float(np.float32(one.angle)) == one.angle
        assert one.flips in range(4)


class TestCanonical:
    @pytest.mark.parametrize("angle", [0, 33, 90, 147])
    def test_the_major_axis_is_horizontal(self, angle):
        made = prepare(image(blob(angle) + 5), CANONICAL)
        assert apart(made.orientation.angle, angle) < 0.5
        assert apart(found(made.pixels[0].astype(float)).angle, 0) < 0.3

    @pytest.mark.parametrize(("back", "below"), [(0, 0), (1, 0), (0, 1), (1, 1)])
    def test_the_light_comes_to_the_chosen_side(self, back, below):
        """A galaxy of known formula, in any of its mirror images, becomes the formula's own."""
        light = lopsided(35)[:: -1 if below else 1, :: -1 if back else 1]
        made = prepare(image(light), CANONICAL)
        mirrored = back != below
        angle = 180 - made.orientation.angle if mirrored else made.orientation.angle
        wanted = lopsided(35 - angle)
        wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
        assert np.abs(made.pixels[0] - wanted)[inside(64)].max() < 2e-3
        along, across = made.pixels[0].sum(axis=0), made.pixels[0].sum(axis=1)
        assert along[32:].sum() > along[:32].sum()
        assert across[:32].sum() > across[32:].sum()

    @pytest.mark.parametrize("side", [64, 96, 150])
    def test_any_pose_gives_the_same_image(self, side):
        noise = np.random.default_rng(2).normal(size=(side, side))
        light = lopsided(25, side, sigmas=(9 * side / 64, 4 * side / 64)) + 0.5 * noise
        first = prepare(image(light), CANONICAL)
        for quarter in range(4):
            for mirrored in (light, light[::-1], light[:, ::-1]):
                made = prepare(image(np.rot90(mirrored, quarter)), CANONICAL)
                np.testing.assert_allclose(made.pixels, first.pixels, atol=2e-3)
                assert (made.source == first.source).mean() > 0.999

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize(("side", "crop"), [(80, 0), (150, 0), (150, 100), (40, 0)])
    def test_back_on_the_sky_it_is_the_image_of_the_sky_frame(self, kernel, side, crop):
        settings = CANONICAL.model_copy(update={"resample": kernel, "crop": crop})
        scale = side / 64
        shape = {"side": side, "sigmas": (9 * scale, 4 * scale)}
        flux = np.stack([lopsided(70, **shape), 0.5 * lopsided(70, **shape) + 3])
        made = prepare(image(flux), settings)
        plain = prepare(image(flux), settings.model_copy(update={"orientation": "sky"}))
        back = to_sky(made.pixels, made.orientation)
        worst = {"nearest": 0.25, "box": 0.2, "bilinear": 0.06}.get(kernel, 0.04)
        difference = np.abs(back - plain.pixels)[:, inside(64)]
        assert difference.max() < worst
        assert difference.mean() < worst / 10

    def test_corners_are_the_image_s_own_where_it_has_them(self):
        """A star beyond the crop comes into the turned frame; without surroundings, sky does."""
        light = 5 + blob(45, side=120)
        light[60 - 1, 60 + 40] += 80  # at +x, 40 px from the centre of a crop of 32 px each side
        made = prepare(image(light), CANONICAL.model_copy(update={"crop": 64}))
        row, column = np.unravel_index(
            np.argmax(np.where(inside(64, 1.1), 0, made.pixels[0])), (64, 64)
        )
        assert np.hypot(row - 31.5, column - 31.5) == pytest.approx(40, abs=1)
        alone = prepare(image(light[28:92, 28:92]), CANONICAL)
        corners = alone.pixels[0][radius((64, 64)) > 1.2]
        assert corners.max() < 0.02

    def test_what_is_missing_beyond_the_crop_becomes_sky(self):
        light = 5 + blob(45, side=120)
        light[:20] = np.nan
        made = prepare(image(light), CANONICAL.model_copy(update={"crop": 64}))
        assert not made.masked
        assert np.isfinite(made.pixels).all()
        assert made.low == pytest.approx(5, abs=0.5)

    @pytest.mark.parametrize(
        "change",
        [
            {"weights": (0.2, 0.3, 0.5), "stretch": "asinh"},
            {"bands": (2, 0), "limits": "percentiles", "stretch": "log"},
            {"missing": "median", "limits": "fixed", "fixed": (0, 150), "dtype": "uint8"},
            {"missing": "zero", "crop": 60, "dtype": "uint8"},
        ],
    )
    def test_with_every_other_setting(self, change):
        preprocessing = CANONICAL.model_copy(update={"source_mask": True, **change})
        flux = np.stack([lopsided(110, side=100) * factor + 4 for factor in (1, 2, 0.5)])
        if preprocessing.missing != "reject":
            flux[:, 50, 30:34] = np.nan
        made = prepare(image(flux), preprocessing)
        bands = 1 if preprocessing.weights else len(preprocessing.bands) or 3
        assert made.pixels.shape == (bands, 64, 64)
        assert made.pixels.dtype == preprocessing.dtype
        assert apart(made.orientation.angle, 110) < 3
        assert 0.05 < made.source.mean() < 0.6
        plain = prepare(image(flux), preprocessing.model_copy(update={"orientation": "sky"}))
        assert made.masked == plain.masked == (preprocessing.missing != "reject")

    def test_a_constant_image_is_refused_as_ever(self):
        from avader.images.checks import CutoutError

        with pytest.raises(CutoutError, match="every pixel is 3"):
            prepare(image(np.full((64, 64), 3.0)), CANONICAL)


class TestBack:
    @given(ORIENTATIONS)
    @settings(deadline=None, max_examples=30)
    def test_a_canonical_galaxy_lies_as_it_is_told(self, orientation):
        canonical = prepare(image(lopsided(0)), CANONICAL).pixels
        one = found(to_sky(canonical, orientation)[0])
        assert apart(one.angle, orientation.angle) < 0.5
        if apart(orientation.angle, 0) > 1:  # there an angle of 0 and 180 differ in both flips
            assert one.flips == orientation.flips

    def test_exact_for_quarter_turns(self):
        canonical = np.random.default_rng(3).random((2, 16, 16)).astype(np.float32)
        for flips, wanted in (
            (0, canonical),
            (FLIP_X, canonical[:, :, ::-1]),
            (FLIP_Y, canonical[:, ::-1]),
        ):
            np.testing.assert_allclose(to_sky(canonical, Orientation(0.0, flips)), wanted)
            up = to_sky(canonical, Orientation(90.0, flips))
            np.testing.assert_allclose(up, np.rot90(wanted, axes=(1, 2)), atol=1e-6)

    def test_corners_take_the_rim_s_median_band_by_band(self):
        canonical = np.stack([np.full((32, 32), 0.1), np.full((32, 32), 0.2)]).astype(np.float32)
        canonical[:, 16, 16] = 1
        sky = to_sky(canonical, Orientation(45.0, 0))
        np.testing.assert_allclose(sky[:, 0, 0], [0.1, 0.2])

    def test_a_mask_turns_with_its_image(self):
        mask = blob(60) > 20
        turned = mask_to_canonical(mask, Orientation(60.0, 0))
        assert (turned != (blob(0) > 20)).mean() < 0.01


@pytest.fixture(scope="module")
def galaxies(real_data) -> list[Image]:
    path = real_data / "galaxy_zoo_5class.parquet"
    batch = next(pq.ParquetFile(path).iter_batches(40, columns=["image"]))
    return [decode_image(data) for data in batch["image"].to_pylist()]


class TestRealGalaxies:
    def test_back_on_the_sky(self, galaxies):
        canonical = Preprocessing(crop=96, weights=(0.3, 0.4, 0.3), orientation="canonical")
        for one in galaxies:
            made = prepare(one, canonical)
            plain = prepare(one, canonical.model_copy(update={"orientation": "sky"}))
            back = to_sky(made.pixels, made.orientation)
            # Limits may differ by what lies in the corners.
            difference = np.abs(back - plain.pixels.astype(float))[:, inside(64)]
            assert difference.mean() < 5
            assert 0.02 < made.source.mean() < 0.9

    def test_turned_by_hand_they_come_out_alike(self, galaxies):
        """Pillow turns the whole cutout by 40 degrees; the canonical frame undoes it."""
        settings = Preprocessing(crop=80, weights=(0.3, 0.4, 0.3), orientation="canonical")
        correlations = []
        for one in galaxies:
            bands = [
                np.asarray(Pillow.fromarray(band).rotate(40, Pillow.Resampling.BICUBIC))
                for band in one.flux
            ]
            first, second = (prepare(each, settings) for each in (one, image(np.stack(bands))))
            pair = [made.pixels[0][inside(64)].astype(float) for made in (first, second)]
            correlations.append(np.corrcoef(*pair)[0, 1])
        assert np.median(correlations) > 0.98


def test_jpeg_bytes_go_the_whole_way():
    sink = io.BytesIO()
    Pillow.fromarray(np.rint(lopsided(50) + 10).astype(np.uint8)).save(sink, "JPEG", quality=95)
    assert apart(prepare(decode_image(sink.getvalue()), CANONICAL).orientation.angle, 50) < 2
