"""Bytes to flux: what is read, and every kind of broken file."""

import pickle
import tracemalloc
import zlib

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from avader.images import decode
from avader.images.checks import REASON_MEANINGS, CutoutError, Reason, plain
from avader.images.decode import MAX_BYTES, decode_image
from avader.images.fits import MAX_VALUES
from tests.images.samples import (
    add_cards,
    card,
    colour,
    fits_bytes,
    grey,
    gzipped,
    hdu_bytes,
    jpeg,
    outcome,
    png,
    png_chunks,
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


def _broken() -> dict[str, tuple[bytes, Reason, str]]:
    """Broken bytes by name, with the reason and a part of the detail that are due."""
    jpg, image, cube = jpeg(colour(64)), fits_bytes(grey()), np.zeros((2, 3, 4, 5), "f4")
    table = astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("x", "J", array=[1])])
    packed = hdu_bytes([astropy_fits.PrimaryHDU(), astropy_fits.CompImageHDU(grey().astype("i2"))])
    table_mask = astropy_fits.BinTableHDU(table.data, name="MASK")
    scans = jpg[:-2] + b"\xff\xda" * 200 + jpg[-2:]
    return {
        "empty": (b"", Reason.NOT_AN_IMAGE, "an empty file"),
        "text": (b"no galaxy here", Reason.NOT_AN_IMAGE, "14 bytes that begin"),
        "web page": (b"<html>503 busy</html>", Reason.NOT_AN_IMAGE, "503 busy"),
        "gif": (b"GIF89a" + bytes(40), Reason.NOT_AN_IMAGE, "GIF89a"),
        "zeros": (bytes(5000), Reason.NOT_AN_IMAGE, "5000 bytes"),
        "jpeg cut in pixels": (jpg[: len(jpg) * 2 // 3], Reason.TRUNCATED, "JPEG"),
        "jpeg cut in header": (jpg[:30], Reason.TRUNCATED, "JPEG"),
        "jpeg of 200 scans": (scans, Reason.UNREADABLE, "scans"),
        "jpeg of inks": (jpeg(colour(), mode="CMYK"), Reason.WRONG_BANDS, "CMYK"),
        "png cut in pixels": (png(grey())[:400], Reason.TRUNCATED, "PNG"),
        "png cut in header": (png(grey())[:20], Reason.TRUNCATED, "PNG"),
        "png with a bad byte": (
            png(grey())[:200] + b"\0\0\0" + png(grey())[203:],
            Reason.UNREADABLE,
            "PNG",
        ),
        "png without pixels": (png_chunks(32, 32), Reason.UNREADABLE, "PNG"),
        "png of no width": (png_chunks(0, 32), Reason.UNREADABLE, "PNG"),
        "png of 16-bit colour": (
            png_chunks(2, 1, depth=16, kind=2, body=bytes(13)),
            Reason.UNREADABLE,
            "16-bit colour",
        ),
        "png bomb": (png_chunks(60_000, 60_000), Reason.TOO_LARGE, ""),
        "png of 100 million pixels": (png_chunks(10_000, 10_000), Reason.TOO_LARGE, "10000"),
        "fits cut in pixels": (image[:-3000], Reason.TRUNCATED, "wants 1024 bytes"),
        "fits cut in header": (image[:300], Reason.TRUNCATED, "no END"),
        "fits of one card": (image[:80], Reason.TRUNCATED, "no END"),
        "fits without image": (fits_bytes(None), Reason.NOT_AN_IMAGE, "came none"),
        "fits with table alone": (
            hdu_bytes([astropy_fits.PrimaryHDU(), table]),
            Reason.NOT_AN_IMAGE,
            "came none",
        ),
        "fits spectrum": (fits_bytes(np.arange(9.0)), Reason.WRONG_SHAPE, "1 axes: 9"),
        "fits of four axes": (fits_bytes(cube), Reason.WRONG_SHAPE, "2 x 3 x 4 x 5"),
        "fits tile-compressed": (packed, Reason.UNREADABLE, "funpack"),
        "fits with BITPIX 7": (card(image, "BITPIX", "7"), Reason.UNREADABLE, "BITPIX"),
        "fits with BITPIX text": (card(image, "BITPIX", "'8'"), Reason.UNREADABLE, "BITPIX"),
        "fits with NAXIS 5": (card(image, "NAXIS", "5"), Reason.UNREADABLE, "NAXIS"),
        "fits with NAXIS -1": (card(image, "NAXIS", "-1"), Reason.UNREADABLE, "below 0"),
        "fits with NAXIS T": (card(image, "NAXIS", "T"), Reason.UNREADABLE, "integer"),
        "fits with negative side": (card(image, "NAXIS1", "-3"), Reason.UNREADABLE, "NAXIS1"),
        "fits with float side": (card(image, "NAXIS1", "32.5"), Reason.UNREADABLE, "NAXIS1"),
        "fits with garbage card": (card(image, "NAXIS1", "??!"), Reason.UNREADABLE, ""),
        "fits that claims too much": (
            card(image, "NAXIS1", "99999999999999999"),
            Reason.TRUNCATED,
            "came 2880",
        ),
        "fits with text scale": (
            add_cards(image, BSCALE="'x'"),
            Reason.UNREADABLE,
            "BSCALE",
        ),
        "fits with a second header broken": (
            image + b"rubbish" * 500,
            Reason.UNREADABLE,
            "byte 5760",
        ),
        "fits with a mask of another shape": (
            fits_bytes(grey(), mask=grey(16)),
            Reason.WRONG_SHAPE,
            "16 x 16",
        ),
        "fits with a table as mask": (
            hdu_bytes([astropy_fits.PrimaryHDU(grey()), table_mask]),
            Reason.UNREADABLE,
            "MASK",
        ),
        "fits with a cut mask": (
            fits_bytes(grey(), mask=grey())[:-2000],
            Reason.TRUNCATED,
            "HDU 1",
        ),
        "gzip of text": (gzipped(b"hello"), Reason.NOT_AN_IMAGE, "hello"),
        "gzip cut": (gzipped(image)[:-200], Reason.TRUNCATED, "gzip"),
        "gzip corrupt": (gzipped(image)[:12] + bytes(400), Reason.UNREADABLE, "gzip"),
    }


BROKEN = _broken()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_bytes_are_a_reason_and_a_detail(kind):
    data, reason, detail = BROKEN[kind]
    with pytest.raises(CutoutError) as caught:
        decode_image(data)
    assert (caught.value.reason, detail in caught.value.detail) == (reason, True), str(caught.value)
    assert "0x7" not in caught.value.detail  # no address: the same text in every run


@pytest.mark.parametrize("make", [jpeg, png, fits_bytes])
def test_every_cut_of_a_file_is_refused_or_whole(make):
    """A file cut anywhere is a reject, or had all its pixels before the cut."""
    data = make(grey(24))
    whole = decode_image(data).flux
    for stop in range(len(data)):
        result = outcome(decode_image, data[:stop])
        if isinstance(result, CutoutError):
            assert result.reason in (Reason.TRUNCATED, Reason.NOT_AN_IMAGE), f"{stop}: {result}"
        else:
            assert np.array_equal(result.flux, whole), stop


class TestBombs:
    """What is small on disk and huge in memory is refused before it is unpacked."""

    def peak(self, data: bytes) -> float:
        tracemalloc.start()
        try:
            with pytest.raises(CutoutError) as caught:
                decode_image(data)
            assert caught.value.reason is Reason.TOO_LARGE
            return tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()

    def test_png_of_a_thousand_million_pixels(self):
        assert self.peak(png_chunks(16_000, 16_000, body=bytes(16_001 * 1600))) < 2

    def test_gzip(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 2**22)
        packer = zlib.compressobj(wbits=31)
        bomb = packer.compress(b"SIMPLE  =" + bytes(2**26)) + packer.flush()
        assert self.peak(bomb) < 20

    def test_fits_whose_data_are_there(self, monkeypatch):
        monkeypatch.setattr("avader.images.fits.MAX_VALUES", 1000)
        assert self.peak(fits_bytes(grey())) < 2

    def test_file_of_too_many_bytes(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 1000)
        assert self.peak(fits_bytes(grey())) < 1

    def test_the_largest_image_is_let_in(self):
        assert MAX_VALUES >= 3 * 4096**2
        assert MAX_BYTES >= 8 * MAX_VALUES


class TestErrors:
    def test_every_reason_has_a_meaning(self):
        assert set(REASON_MEANINGS) == set(Reason)
        assert all(reason.value == reason.name.lower() for reason in Reason)

    def test_error_survives_pickling(self):
        error = CutoutError(Reason.CONSTANT, "every pixel is 3")
        again = pickle.loads(pickle.dumps(error))
        assert (again.reason, again.detail) == (error.reason, error.detail)
        assert str(again) == "constant: every pixel is 3"

    def test_detail_is_one_short_printable_line(self):
        assert plain("a\n  b\tc <BytesIO object at 0x7f00ab12>\x00") == "a b c <BytesIO object>?"
        assert len(plain("x" * 1000)) == 300
