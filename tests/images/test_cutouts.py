"""From flux to pixels and back, against plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import output_bands, prepare, restore_flux
from avader.images.decode import Image, decode_image
from avader.recipe import PUBLISHED_PREPROCESSING, Preprocessing
from tests.images.oracles import KERNELS, noise, sampled
from tests.images.samples import colour, grey, jpeg, outcome, png


def image(flux, *, missing=None, saturated=None) -> Image:
    flux = np.asarray(flux, np.float32)
    flux = flux[np.newaxis] if flux.ndim == 2 else flux
    empty = np.zeros(flux.shape[1:], bool)
    return Image(
        flux,
        empty if missing is None else missing,
        empty if saturated is None else saturated,
    )


def refusal(flux, preprocessing, **masks) -> CutoutError:
    with pytest.raises(CutoutError) as caught:
        prepare(image(flux, **masks), preprocessing)
    return caught.value


class TestCrop:
    def test_central_square(self):
        flux = noise(21, 30)
        cutout = prepare(image(flux), Preprocessing(crop=8, size=8, dtype="float16"))
        square = flux[6:14, 11:19]
        assert (cutout.low, cutout.high) == (square.min(), square.max())

    def test_smaller_than_the_crop(self):
        error = refusal(noise(64, 63), Preprocessing(crop=64))
        assert error.reason is Reason.TOO_SMALL
        assert error.detail == "wanted at least 64 x 64 px, came 64 x 63 px"

    def test_not_square_without_a_crop(self):
        error = refusal(noise(64, 63), Preprocessing())
        assert error.reason is Reason.NOT_SQUARE
        assert "64 x 63" in error.detail

    def test_what_lies_outside_the_crop_does_not_matter(self):
        inside, outside = noise(32, 32), noise(32, 32)
        outside[4:28, 4:28] = inside[4:28, 4:28]
        outside[0, 0] = np.nan
        saturated = np.zeros((32, 32), bool)
        saturated[1, 1] = True
        settings = Preprocessing(crop=24, size=24)
        one = prepare(image(inside), settings)
        other = prepare(image(outside, saturated=saturated), settings)
        assert np.array_equal(one.pixels, other.pixels)
        assert (other.masked, other.saturated) == (False, False)


class TestBands:
    def test_kept_in_the_order_asked(self):
        flux = noise(4, 16, 16)
        settings = Preprocessing(size=16, bands=(2, 0), limits="fixed", fixed=(-10, 20))
        cutout = prepare(image(flux), settings)
        alone = Preprocessing(size=16, limits="fixed", fixed=(-10, 20))
        assert np.array_equal(cutout.pixels, prepare(image(flux[[2, 0]]), alone).pixels)

    def test_bands_share_their_limits(self):
        flux = np.stack([noise(16, 16), 10 * noise(16, 16)])
        cutout = prepare(image(flux), Preprocessing(size=16))
        assert (cutout.low, cutout.high) == (flux.min(), flux.max())

    def test_weighted_sum(self):
        flux = noise(3, 16, 16)
        settings = Preprocessing(size=16, bands=(0, 2), weights=(0.25, 2.0), dtype="float16")
        total = 0.25 * flux[0] + 2 * flux[2]
        cutout = prepare(image(flux), settings)
        assert cutout.pixels.shape == (1, 16, 16)
        assert (cutout.low, cutout.high) == pytest.approx((total.min(), total.max()))

    def test_weights_without_bands_are_for_all(self):
        flux = noise(3, 16, 16)
        one = prepare(image(flux), Preprocessing(size=16, weights=(1, 2, 3)))
        two = prepare(image(flux), Preprocessing(size=16, bands=(0, 1, 2), weights=(1, 2, 3)))
        assert np.array_equal(one.pixels, two.pixels)

    @pytest.mark.parametrize(
        ("bands", "settings", "detail"),
        [
            (1, PUBLISHED_PREPROCESSING, "wanted band 2 (from 0), came 1 band: the image is grey"),
            (1, Preprocessing(weights=(1, 1, 1)), "wanted 3 bands, one a weight, came 1 band"),
            (4, Preprocessing(weights=(1, 1, 1)), "wanted 3 bands, one a weight, came 4 bands"),
            (3, Preprocessing(bands=(0, 3)), "wanted band 3 (from 0), came 3 bands"),
        ],
    )
    def test_missing_bands(self, bands, settings, detail):
        error = refusal(noise(bands, 200, 200), settings)
        assert error.reason is Reason.WRONG_BANDS
        assert error.detail.startswith(detail)

    def test_output_bands(self):
        assert output_bands(PUBLISHED_PREPROCESSING) == 1
        assert output_bands(Preprocessing(bands=(0, 1))) == 2
        assert output_bands(Preprocessing()) is None


class TestMissing:
    FILL = Preprocessing(size=16, missing="median", dtype="float16")

    def broken(self, count=5):
        flux = noise(2, 16, 16)
        flux[1].flat[:count] = np.nan
        return flux

    def test_refused_by_default(self):
        error = refusal(self.broken(), Preprocessing(size=16))
        assert error.reason is Reason.MISSING_PIXELS
        assert error.detail.endswith("(5 of 256)")

    def test_a_masked_pixel_is_missing(self):
        mask = np.zeros((16, 16), bool)
        mask[2, 3] = True
        assert refusal(noise(16, 16), Preprocessing(size=16), missing=mask).reason is (
            Reason.MISSING_PIXELS
        )

    def test_median_of_its_band_fills_every_band(self):
        flux = self.broken()
        cutout = prepare(image(flux), self.FILL)
        wanted = flux.copy()
        for band in wanted:
            band.flat[:5] = np.median(band.flat[5:])
        restored = restore_flux(
            cutout.pixels, low=cutout.low, high=cutout.high, preprocessing=self.FILL
        )
        np.testing.assert_allclose(restored, wanted, atol=0.01)
        assert cutout.masked

    def test_zero_flux(self):
        settings = Preprocessing(size=16, missing="zero", dtype="float16")
        cutout = prepare(image(noise(16, 16) + 50, missing=np.eye(16, dtype=bool)), settings)
        assert cutout.low == 0
        assert np.array_equal(cutout.pixels[0] == 0, np.eye(16, dtype=bool))

    def test_the_value_under_a_mask_is_not_used(self):
        flux, mask = noise(16, 16), np.zeros((16, 16), bool)
        mask[4, 4] = True
        flux[4, 4] = 1e9
        assert prepare(image(flux, missing=mask), self.FILL).high < 100

    def test_a_band_that_is_not_kept_may_be_missing(self):
        cutout = prepare(image(self.broken()), Preprocessing(size=16, bands=(0,)))
        assert not cutout.masked

    @pytest.mark.parametrize(("count", "accepted"), [(25, True), (26, False)])
    def test_limit_of_what_is_filled(self, count, accepted):
        result = outcome(prepare, image(self.broken(count)), self.FILL)
        assert isinstance(result, CutoutError) is not accepted

    @pytest.mark.parametrize("missing", ["reject", "median", "zero"])
    def test_all_missing_is_always_refused(self, missing):
        settings = Preprocessing(size=16, missing=missing, max_missing=1)
        error = refusal(np.full((16, 16), np.nan), settings)
        assert (error.reason, error.detail) == (
            Reason.ALL_MISSING,
            "every pixel is NaN or masked",
        )


class TestConstant:
    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("limits", ["minmax", "percentiles", "fixed"])
    def test_constant_image(self, kernel, limits):
        settings = Preprocessing(size=24, resample=kernel, limits=limits, weights=(0.3, 0.1, 0.7))
        error = refusal(np.full((3, 40, 40), 0.1), settings)
        assert error.reason is Reason.CONSTANT
        assert error.detail.startswith("every pixel is 0.11")

    def test_flat_colour(self):
        flux = np.ones((3, 16, 16)) * np.array([1, 2, 3])[:, None, None]
        assert refusal(flux, Preprocessing(size=16)).reason is Reason.CONSTANT

    def test_one_flat_band_of_several_is_kept(self):
        flux = noise(3, 16, 16)
        flux[1] = 0
        assert prepare(image(flux), Preprocessing(size=16)).pixels.shape == (3, 16, 16)

    def test_constant_once_resized(self):
        flux = np.zeros((24, 24))
        flux[::3] = 1
        error = refusal(flux, Preprocessing(size=8, resample="nearest"))
        assert error.reason is Reason.NO_RANGE

    def test_equal_percentiles(self):
        flux = np.zeros((32, 32))
        flux[3, 3] = 7
        error = refusal(flux, Preprocessing(size=32, limits="percentiles"))
        assert (error.reason, error.detail) == (
            Reason.NO_RANGE,
            "both limits (percentiles) are 0",
        )

    def test_outside_the_fixed_limits(self):
        settings = Preprocessing(size=16, limits="fixed", fixed=(100, 200))
        assert "one side of limits 100, 200" in refusal(noise(16, 16), settings).detail

    def test_the_smallest_range_there_is_survives(self):
        flux = np.zeros((16, 16), np.float32)
        flux[2, 2] = np.float32(1e-45)
        cutout = prepare(image(flux), Preprocessing(size=16))
        assert cutout.pixels.max() == 255

    def test_flux_beyond_float32_is_refused(self):
        settings = Preprocessing(size=16, weights=(1e20,))
        assert refusal(1e25 * noise(16, 16), settings).reason is Reason.OVERFLOW


class TestLimitsAndStretch:
    def test_uint8_is_rounded_from_minimum_to_maximum(self):
        flux = noise(16, 16)
        cutout = prepare(image(flux), Preprocessing(size=16))
        unit = (flux.astype(float) - flux.min()) / (float(flux.max()) - flux.min())
        assert np.array_equal(cutout.pixels[0], np.round(255 * unit))
        assert cutout.pixels.dtype == np.uint8

    def test_percentiles_clip(self):
        flux = noise(1, 64, 64)
        settings = Preprocessing(limits="percentiles", percentiles=(5, 90))
        cutout = prepare(image(flux), settings)
        assert (cutout.low, cutout.high) == pytest.approx(np.percentile(flux, [5, 90]))
        assert set(cutout.pixels[flux >= cutout.high]) == {255}
        assert set(cutout.pixels[flux <= cutout.low]) == {0}
        assert 254 in cutout.pixels

    def test_fixed_limits_are_those_asked(self):
        settings = Preprocessing(size=16, limits="fixed", fixed=(-1.5, 40.0))
        cutout = prepare(image(noise(16, 16)), settings)
        assert (cutout.low, cutout.high) == (-1.5, 40.0)

    @pytest.mark.parametrize(
        ("stretch", "curve"),
        [
            ("linear", lambda u, s: u),
            ("asinh", lambda u, s: np.arcsinh(u / s) / np.arcsinh(1 / s)),
            ("log", lambda u, s: np.log(1 + u / s) / np.log(1 + 1 / s)),
        ],
    )
    def test_curves(self, stretch, curve):
        ramp = np.linspace(0, 255, 256).reshape(16, 16)
        settings = Preprocessing(size=16, stretch=stretch, softening=0.05, dtype="float16")
        pixels = prepare(image(ramp), settings).pixels[0]
        np.testing.assert_allclose(pixels, curve(ramp / 255, 0.05), atol=5e-4)
        assert (pixels.min(), pixels.max()) == (0, 1)

    @settings(max_examples=60, deadline=None)
    @given(
        stretch=st.sampled_from(["linear", "asinh", "log"]),
        softening=st.floats(1e-3, 1e3),
        dtype=st.sampled_from(["uint8", "float16"]),
        scale=st.floats(1e-6, 1e6),
        zero=st.floats(-1e3, 1e3),
        seed=st.integers(0, 100),
    )
    def test_flux_is_restored_to_half_a_step(self, stretch, softening, dtype, scale, zero, seed):
        """The greatest error is half a step of the stored type, by the steepest inverse slope."""
        flux = (noise(2, 8, 8, seed=seed) + np.float32(zero)) * np.float32(scale)
        declared = Preprocessing(size=8, stretch=stretch, softening=softening, dtype=dtype)
        cutout = prepare(image(flux), declared)
        restored = restore_flux(
            cutout.pixels, low=cutout.low, high=cutout.high, preprocessing=declared
        )
        assert (restored.dtype, restored.shape) == (np.float32, flux.shape)
        step = 0.5 / 255 if dtype == "uint8" else 2.0**-12
        slope = {
            "linear": 1.0,
            "asinh": np.sqrt(1 + softening**2) * np.arcsinh(1 / softening),
            "log": (1 + softening) * np.log1p(1 / softening),
        }[stretch]
        allowed = step * slope * (cutout.high - cutout.low) * 1.01 + 3e-7 * np.abs(flux).max()
        assert np.abs(restored - flux).max() <= allowed

    def test_restores_what_a_decoder_gives(self):
        x = np.array([[[0.0, 0.5, 1.0, 1.2]]], np.float32)
        found = restore_flux(x, low=10, high=20, preprocessing=Preprocessing())
        np.testing.assert_allclose(found, [[[10, 15, 20, 22]]], rtol=1e-6)


class TestFlags:
    SETTINGS = Preprocessing(size=16)

    def lit(self, row, column, value):
        flux = np.zeros((16, 16))
        flux[8, 8], flux[row, column] = 100, value
        return prepare(image(flux), self.SETTINGS).touches_edge

    @pytest.mark.parametrize(("row", "column"), [(0, 5), (15, 5), (5, 0), (5, 15), (0, 0)])
    def test_touches_edge_above_half_of_the_range(self, row, column):
        assert self.lit(row, column, 50.1)
        assert not self.lit(row, column, 50.0)

    def test_one_pixel_inside_does_not_touch(self):
        assert not self.lit(1, 1, 99)

    def test_touching_is_judged_on_the_linear_scale(self):
        flux = np.zeros((16, 16))
        flux[8, 8], flux[0, 3] = 100, 40
        asinh = Preprocessing(size=16, stretch="asinh", softening=0.01)
        assert not prepare(image(flux), asinh).touches_edge

    def test_saturated_inside_the_crop(self):
        saturated = np.zeros((16, 16), bool)
        saturated[0, 0] = True
        assert prepare(image(noise(16, 16), saturated=saturated), self.SETTINGS).saturated


class TestWholeWay:
    def test_published_preprocessing_step_by_step(self):
        """Crop 192, BGR luminance weights, point-sampled to 128, min..max to 0..255."""
        data = jpeg(colour(256))
        flux = decode_image(data).flux[:, 32:224, 32:224].astype(float)
        total = 0.0721 * flux[0] + 0.7154 * flux[1] + 0.2125 * flux[2]
        small = sampled(total, 128)
        wanted = 255 * (small - small.min()) / (small.max() - small.min())
        cutout = prepare(decode_image(data), PUBLISHED_PREPROCESSING)
        assert np.abs(cutout.pixels[0] - wanted).max() <= 0.5 + 1e-3
        assert (cutout.pixels.min(), cutout.pixels.max()) == (0, 255)
        assert (cutout.low, cutout.high) == pytest.approx((small.min(), small.max()), rel=1e-6)

    def test_the_input_is_not_changed(self):
        source = image(noise(3, 16, 16), missing=np.eye(16, dtype=bool))
        before = source.flux.copy()
        prepare(source, Preprocessing(size=8, missing="zero", weights=(1, 1, 1)))
        assert np.array_equal(source.flux, before)

    def test_png_and_jpeg_of_a_grey_image_end_alike(self):
        one, two = (prepare(decode_image(make(grey(64))), Preprocessing()) for make in (png, jpeg))
        assert np.abs(one.pixels.astype(int) - two.pixels).mean() < 6

    def test_real_galaxies_as_the_published_model_saw_them(self, real_data):
        """Its images came from larger JPEGs, so ours, made of halved ones, only resemble them."""
        import pyarrow.parquet as pq

        with np.load(real_data / "astrovader_published" / "reference_outputs.npz") as reference:
            images = dict(zip(reference["object_id"].tolist(), reference["image"], strict=True))
        table = pq.read_table(
            real_data / "galaxy_zoo_5class.parquet",
            columns=["object_id", "image"],
            filters=[("object_id", "in", list(images))],
        )
        halved = PUBLISHED_PREPROCESSING.model_copy(update={"crop": 96})
        assert table.num_rows > 0
        for row in table.to_pylist():
            pixels = prepare(decode_image(row["image"]), halved).pixels
            likeness = np.corrcoef(pixels.ravel(), images[row["object_id"]].ravel())[0, 1]
            assert likeness > 0.98, row["object_id"]
