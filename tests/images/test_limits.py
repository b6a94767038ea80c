"""What is small on disk and huge in memory or time is refused before it costs either."""

import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from astropy.io import fits

from avader.images import decode, limits
from avader.images.checks import CutoutError, Reason
from avader.images.cutouts import prepare
from avader.images.decode import Image, decode_image
from avader.images.limits import MAX_BYTES, MAX_VALUES
from avader.images.source import sky
from avader.recipe import Preprocessing
from tests.images.samples import (
    fits_bytes,
    grey,
    gzipped,
    hdu_bytes,
    jpeg,
    outcome,
    png,
    png_chunk,
    png_chunks,
)


def many_chunks(count: int) -> bytes:
    """A PNG with so many texts before its pixels."""
    return png(grey())[:33] + png_chunk(b"tEXt", b"a\0b") * count + png(grey())[33:]


def padded_jpeg(count: int) -> bytes:
    """A JPEG with so many fill bytes before its first marker."""
    return jpeg(grey())[:2] + b"\xff" * count + jpeg(grey())[2:]


def growing_exif(count: int) -> bytes:
    """A JPEG of so many EXIF segments, which Pillow joins one by one."""
    segment = b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\0\x08"
    return jpeg(grey())[:2] + segment * count + jpeg(grey())[2:]


def many_headers(count: int, *, blocks: int) -> bytes:
    """A FITS file of so many extensions without data, each with a header of so many blocks."""
    empty = hdu_bytes([fits.PrimaryHDU(), fits.ImageHDU()])
    primary, header = empty[:2880], empty[2880:].rstrip()
    comments = b"COMMENT ".ljust(80) * ((blocks - 1) * 36)
    return primary + (header[:-3] + comments + b"END".ljust(80)).ljust(blocks * 2880) * count


class TestMemory:
    def peak(self, data: bytes, reason: Reason) -> float:
        """MiB at most."""
        tracemalloc.start()
        try:
            assert outcome(decode_image, data).reason is reason
            return tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()

    def test_png_of_a_thousand_million_pixels(self):
        bomb = png_chunks(16_000, 16_000, body=bytes(16_001 * 1600))
        assert self.peak(bomb, Reason.TOO_LARGE) < 2

    def test_gzip(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 2**22)
        packer = zlib.compressobj(wbits=31)
        bomb = packer.compress(b"SIMPLE  =" + bytes(2**26)) + packer.flush()
        assert self.peak(bomb, Reason.FILE_TOO_LARGE) < 12

    def test_gzip_of_many_members(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 2**20)
        assert self.peak(gzipped(bytes(2**16)) * 100, Reason.FILE_TOO_LARGE) < 4

    def test_fits_whose_data_are_there(self, monkeypatch):
        monkeypatch.setattr("avader.images.limits.MAX_VALUES", 1000)
        assert self.peak(fits_bytes(grey()), Reason.TOO_LARGE) < 2

    def test_extensions_that_are_too_much_together(self, monkeypatch):
        monkeypatch.setattr("avader.images.limits.MAX_VALUES", 2500)
        data = hdu_bytes([fits.PrimaryHDU(), *[fits.ImageHDU(grey()) for _ in range(3)]])
        assert decode_image(data, extensions=("1", "2")).flux.shape == (2, 32, 32)
        with pytest.raises(CutoutError, match="too_large: wanted at most 2500 values, came 3072"):
            decode_image(data, extensions=("1", "2", "3"))

    def test_file_of_too_many_bytes(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 1000)
        assert self.peak(fits_bytes(grey()), Reason.FILE_TOO_LARGE) < 1

    def test_the_largest_image_is_let_in(self):
        assert MAX_VALUES >= 3 * 4096**2
        assert MAX_BYTES >= 8 * MAX_VALUES


SLOW = {
    "png": many_chunks(90_000),
    "jpeg": padded_jpeg(300_000),
    "exif": growing_exif(60_000),
    "gzip": gzipped(b"SIMPLE  =") + gzipped(b"") * 19_000,
    "fits": many_headers(99, blocks=19),
}


class TestTime:
    @pytest.mark.parametrize("kind", SLOW)
    def test_a_slow_image_is_a_reject(self, kind, monkeypatch):
        monkeypatch.setattr(limits, "TIME_LIMIT", 0.01)
        begun = time.thread_time()
        error = outcome(decode_image, SLOW[kind])
        assert error.reason is Reason.TIME_LIMIT
        assert error.detail == "wanted an image that decodes in 0.01 s of CPU time"
        assert time.thread_time() - begun < 0.5

    @pytest.mark.parametrize("kind", SLOW)
    def test_it_takes_a_small_part_of_the_limit(self, kind):
        begun = time.thread_time()
        outcome(decode_image, SLOW[kind])
        assert time.thread_time() - begun < limits.TIME_LIMIT / 4

    def test_holds_in_any_thread(self, monkeypatch):
        """Ray does the work of its actors in a thread that is not the main one."""
        monkeypatch.setattr(limits, "TIME_LIMIT", 0.01)
        ended = []
        thread = threading.Thread(target=lambda: ended.append(outcome(decode_image, SLOW["png"])))
        thread.start()
        thread.join()
        assert ended[0].reason is Reason.TIME_LIMIT

    def test_time_is_the_processor_s(self, monkeypatch):
        """A machine that sleeps or does something else makes no reject."""
        monkeypatch.setattr(limits, "TIME_LIMIT", 0.02)
        deadline = limits.Deadline()
        time.sleep(0.1)
        deadline.check()

    def test_reads_are_counted(self, monkeypatch):
        monkeypatch.setattr(limits, "MAX_READS", 1000)
        for make in (padded_jpeg, growing_exif):
            assert outcome(decode_image, make(1000)).reason is Reason.TOO_COMPLEX

    def test_pixels_that_lose_one_at_a_time(self):
        """The sky's clipping ends also where each turn takes but one pixel."""
        steps = np.sort(np.concatenate([np.linspace(0, 1, 700), np.linspace(1.2, 8, 1200)]))
        image = np.zeros((128, 128))
        rim = np.argwhere(np.hypot(*np.mgrid[-63.5:64, -63.5:64]) > 64)
        for number, (row, column) in enumerate(rim):
            image[row, column] = steps[number % len(steps)] * (-1) ** number
        begun = time.thread_time()
        level, sigma = sky(image)
        assert time.thread_time() - begun < 1
        assert np.isfinite([level, sigma]).all()

    def test_a_large_image_is_prepared_in_time(self):
        flux = np.random.default_rng(0).normal(size=(3, 1024, 1024)).astype(np.float32)
        empty = np.zeros(flux.shape[1:], bool)
        begun = time.thread_time()
        prepare(Image(flux, empty, empty), Preprocessing(orientation="canonical"))
        assert time.thread_time() - begun < 10
