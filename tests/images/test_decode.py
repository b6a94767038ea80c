"""Bytes to flux: what is read; what is refused is in tests/pipelines/bad_cutouts.py."""

import io
import pickle

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from PIL import Image

from avader.images.checks import CutoutError, Reason, plain
from avader.images.decode import decode_image
from tests.images.samples import (
    add_cards,
    colour,
    fits_bytes,
    grey,
    gzipped,
    hdu_bytes,
    jpeg,
    outcome,
    png,
)


class TestRaster:
    def test_grey_png_is_one_band(self):
        image = decode_image(png(grey()))
        assert image.flux.dtype == np.float32
        assert np.array_equal(image.flux, grey()[np.newaxis])
        assert not image.missing.any()
        assert not image.saturated.any()

    def test_colour_png_is_three_bands_in_order(self):
        assert np.array_equal(decode_image(png(colour())).flux, np.moveaxis(colour(), 2, 0))

    def test_16_bit_grey_png_keeps_all_bits(self):
        values = grey().astype(np.uint16) * 257 + 3
        assert np.array_equal(decode_image(png(values)).flux[0], values)

    def test_jpeg_is_close_to_what_was_saved(self):
        flux = decode_image(jpeg(grey())).flux
        assert flux.shape == (1, 32, 32)
        assert np.abs(flux[0] - grey()).mean() < 4

    def test_colour_and_progressive_jpeg(self):
        assert decode_image(jpeg(colour())).flux.shape == (3, 32, 32)
        assert decode_image(jpeg(colour(), progressive=True)).flux.shape == (3, 32, 32)

    def test_palette_png_becomes_rgb(self):
        assert decode_image(png(colour(), mode="P")).flux.shape == (3, 32, 32)

    def test_bilevel_png_is_one_band_of_0_and_255(self):
        flux = decode_image(png(grey() > 100)).flux
        assert set(np.unique(flux)) == {0, 255}

    def test_wholly_transparent_pixels_are_missing(self):
        pixels = np.dstack([colour(), np.full((32, 32), 255, np.uint8)])
        pixels[3, 4, 3], pixels[5, 6, 3] = 0, 1
        image = decode_image(png(pixels))
        assert image.flux.shape == (3, 32, 32)
        assert np.argwhere(image.missing).tolist() == [[3, 4]]

    def test_transparent_grey_is_missing(self):
        image = decode_image(png(grey(), transparency=int(grey()[0, 0])))
        assert image.flux.shape == (1, 32, 32)
        assert np.array_equal(image.missing, grey() == grey()[0, 0])

    @pytest.mark.parametrize("make", [png, lambda a: png(a.astype(np.uint16) * 257)])
    def test_saturated_is_the_greatest_value_of_the_type(self, make):
        values = grey()
        values[7, 8], values[9, 9] = 255, 254
        assert np.argwhere(decode_image(make(values)).saturated).tolist() == [[7, 8]]

    def test_saturated_in_any_band(self):
        values = colour()
        values[1, 2, 1] = 255
        assert np.argwhere(decode_image(png(values)).saturated).tolist() == [[1, 2]]


class TestFits:
    @pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8", "u2", "u4"])
    def test_every_type(self, kind):
        values = grey().astype(kind)
        image = decode_image(fits_bytes(values))
        assert np.array_equal(image.flux[0], grey())
        assert not image.saturated.any()

    def test_cube_has_bands_first(self):
        cube = np.moveaxis(colour(), 2, 0).astype("f4")
        assert np.array_equal(decode_image(fits_bytes(cube)).flux, cube)

    def test_more_axes_of_length_one(self):
        assert decode_image(fits_bytes(grey()[None, None])).flux.shape == (1, 32, 32)
        assert decode_image(fits_bytes(np.zeros((1, 2, 4, 5), "f4"))).flux.shape == (2, 4, 5)

    def test_gzipped_also_in_two_members(self):
        data = fits_bytes(grey())
        for packed in (gzipped(data), gzipped(data[:3000]) + gzipped(data[3000:]) + bytes(9)):
            assert np.array_equal(decode_image(packed).flux[0], grey())

    def test_empty_primary_and_tables_are_passed_over(self):
        table = astropy_fits.BinTableHDU.from_columns(
            [astropy_fits.Column("x", "J", array=np.arange(5000))]
        )
        image = astropy_fits.ImageHDU(grey(), name="SCI")
        second = astropy_fits.ImageHDU(grey() + 1, name="OTHER")
        data = hdu_bytes([astropy_fits.PrimaryHDU(), table, image, second])
        assert np.array_equal(decode_image(data).flux[0], grey())

    def test_extensions_are_the_bands_asked_for(self):
        """By name in any case or by number, planes and cubes, in the order asked."""
        cube = np.stack([grey(seed=7), grey(seed=8)]).astype("f4")
        hdus = [
            astropy_fits.PrimaryHDU(grey()),
            astropy_fits.ImageHDU(grey(seed=1).astype("i2"), name="G"),
            astropy_fits.ImageHDU(cube, name="pair"),
            astropy_fits.ImageHDU((grey() > 200).astype("u1"), name="MASK"),
            astropy_fits.CompImageHDU(grey().astype("i2"), name="PACKED"),
        ]
        data = hdu_bytes(hdus)
        image = decode_image(data, extensions=("PAIR", "g", "0"))
        np.testing.assert_array_equal(image.flux, [*cube, grey(seed=1), grey()])
        np.testing.assert_array_equal(image.missing, grey() > 200)
        assert np.array_equal(decode_image(data).flux[0], grey())

    def test_extensions_have_their_own_scale_and_saturation(self):
        hdus = [astropy_fits.PrimaryHDU()]
        for name in "GR":
            hdus.append(astropy_fits.ImageHDU(grey().astype("f4"), name=name))
        hdus[1].header["SATURATE"] = 150.0
        hdus[2].header["SATURATE"] = 220.0
        saturated = decode_image(hdu_bytes(hdus), extensions=("R", "G")).saturated
        assert np.array_equal(saturated, grey() >= 150)
        assert np.array_equal(
            decode_image(hdu_bytes(hdus), extensions=("R",)).saturated, grey() >= 220
        )

    def test_mask_may_come_first_and_hold_a_plane_per_band(self):
        mask = np.zeros((3, 32, 32), np.uint16)
        mask[1, 2, 3] = 4
        hdus = [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(mask, name="mask")]
        hdus.append(astropy_fits.ImageHDU(np.moveaxis(colour(), 2, 0)))
        assert np.argwhere(decode_image(hdu_bytes(hdus)).missing).tolist() == [[2, 3]]

    def test_scaled_values_and_blank(self):
        raw = grey().astype("i2")
        raw[4, 5] = -99
        data = add_cards(fits_bytes(raw), BSCALE="0.5", BZERO="10.0", BLANK="-99")
        flux = decode_image(data).flux[0]
        assert np.argwhere(np.isnan(flux)).tolist() == [[4, 5]]
        assert flux[0, 0] == raw[0, 0] * 0.5 + 10

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31, -1e35, 1e300])
    def test_no_value_is_nan_in_its_band_alone(self, value):
        cube = np.moveaxis(colour(), 2, 0).astype("f8")
        cube[1, 2, 3] = value
        image = decode_image(fits_bytes(cube))
        assert np.argwhere(np.isnan(image.flux)).tolist() == [[1, 2, 3]]
        assert not image.missing.any()

    def test_saturate_is_in_physical_units(self):
        values = grey().astype("f4")
        image = decode_image(fits_bytes(values, saturate=150.0))
        assert np.array_equal(image.saturated, values >= 150)
        assert image.saturated.any()

    def test_saturate_that_is_no_number_is_ignored(self):
        assert not decode_image(fits_bytes(grey(), saturate="high")).saturated.any()

    def test_greatest_integer_is_saturated_whatever_its_zero(self):
        values = grey().astype("u2")
        values[1, 2] = 65_535
        assert np.argwhere(decode_image(fits_bytes(values)).saturated).tolist() == [[1, 2]]

    def test_agrees_with_astropy(self):
        rng = np.random.default_rng(3)
        for kind in ("i2", "f8", "u4"):
            values = (rng.random((2, 9, 11)) * 1e4).astype(kind)
            data = fits_bytes(values)
            expected = astropy_fits.HDUList.fromstring(data)[0].data.astype("f4")
            assert np.array_equal(decode_image(data).flux, expected)


@pytest.mark.parametrize("make", [jpeg, png, fits_bytes])
def test_every_cut_of_a_file_is_refused_or_whole(make):
    """A file cut anywhere is a reject, or had all its pixels before the cut."""
    data = make(grey(24))
    whole = decode_image(data).flux
    for stop in range(len(data)):
        result = outcome(decode_image, data[:stop])
        if isinstance(result, CutoutError):
            start = {Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, Reason.TEXT} if stop < 9 else set()
            assert result.reason in start | {Reason.TRUNCATED}, f"{stop}: {result}"
        else:
            assert np.array_equal(result.flux, whole), stop


class TestErrors:
    def test_error_survives_pickling(self):
        error = CutoutError(Reason.CONSTANT, "every pixel is 3")
        again = pickle.loads(pickle.dumps(error))
        assert (again.reason, again.detail) == (error.reason, error.detail)
        assert str(again) == "constant: every pixel is 3"

    @pytest.mark.parametrize("detail", ["every pixel is 3", "cannot read: a: no such file", ""])
    def test_error_is_read_from_its_text(self, detail):
        again = CutoutError.parse(str(CutoutError(Reason.CONSTANT, detail)))
        assert (again.reason, again.detail) == (Reason.CONSTANT, detail)

    def test_detail_is_one_short_printable_line(self):
        assert plain("a\n  b\tc <BytesIO object at 0x7f00ab12>\x00") == "a b c <BytesIO object>?"
        assert len(plain("x" * 1000)) == 300


def test_a_grey_level_of_16_bits_that_is_transparent_is_missing():
    levels = np.full((8, 8), 1000, np.uint16)
    levels[0, :3] = 77
    file = Image.fromarray(levels)
    sink = io.BytesIO()
    file.save(sink, "png", transparency=77)
    decoded = decode_image(sink.getvalue())
    assert decoded.flux.shape == (1, 8, 8)
    np.testing.assert_array_equal(decoded.missing, levels == 77)
