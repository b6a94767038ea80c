"""The mock survey: pure in (seed, i), true to its truth, broken where it says so."""

import io
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from avader.catalogue.columns import RESERVED
from avader.config import SimulateSettings
from avader.errors import InputError
from avader.pipelines import simulate
from avader.survey import mock, mock_files

pytest.importorskip("galsim", reason="the mock survey needs the extra `mock`")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    out = tmp_path_factory.mktemp("survey")
    simulate.run(SimulateSettings(out=str(out), count=16, seed=11))
    return out


def galaxies(kind, count, **wanted):
    """(index, galaxy) of a kind without companion."""
    found = []
    index = 0
    while len(found) < count:
        galaxy = mock.draw_galaxy(3, index)
        if galaxy.kind == kind and not galaxy.companion:
            found.append((index, replace(galaxy, **wanted)))
        index += 1
    return found


def image(index, galaxy, size=64):
    return mock.draw_image(galaxy, seed=3, index=index, size=size).astype(np.float64)


def moments(flux):
    """Position angle, degrees from columns towards rows, and axis ratio by second moments."""
    y, x = np.indices(flux.shape) - (len(flux) - 1) / 2
    light = np.where((flux > 0.05 * flux.max()) & (np.hypot(x, y) < 25), flux, 0)
    x, y = x - np.average(x, weights=light), y - np.average(y, weights=light)
    xx, yy, xy = (np.average(v, weights=light) for v in (x * x, y * y, x * y))
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
    return angle, np.sqrt(values[0] / values[1])


def test_a_galaxy_depends_on_seed_and_index_alone():
    first = [mock.draw_galaxy(1, i) for i in range(5)]
    assert first[::-1] == [mock.draw_galaxy(1, i) for i in range(4, -1, -1)]
    assert mock.draw_galaxy(2, 0) != first[0] != first[1]
    np.testing.assert_array_equal(image(5, first[2]), image(5, first[2]))
    assert np.any(image(6, first[2]) != image(5, first[2]))


def test_positions_are_uniform_on_a_patch_of_a_few_hundred_square_degrees():
    drawn = [mock.draw_galaxy(0, i) for i in range(4000)]
    ra, dec = np.array([g.ra for g in drawn]), np.array([g.dec for g in drawn])
    assert 140 <= ra.min() < 140.1
    assert 159.9 < ra.max() <= 160
    area = 20 * np.degrees(np.diff(np.sin(np.radians([0, 20]))))[0]
    assert 300 < area < 500
    share = np.mean(dec < 10)
    expected = np.sin(np.radians(10)) / np.sin(np.radians(20))
    assert share == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(4000))


def test_kinds_come_as_often_as_said():
    kinds = [mock.draw_galaxy(0, i).kind for i in range(4000)]
    shares = [kinds.count(kind) / 4000 for kind in mock.KINDS]
    np.testing.assert_allclose(shares, mock.FREQUENCIES, atol=4 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize("kind", mock.KINDS)
def test_the_image_holds_the_flux_of_the_truth(kind):
    ratios = [image(i, g).sum() / g.flux for i, g in galaxies(kind, 10, flux=1e6)]
    assert np.median(ratios) == pytest.approx(0.95, abs=0.06)  # the wings lie outside the stamp


def test_position_angle_and_flattening_of_edge_on_disks_are_the_true_ones():
    for index, galaxy in galaxies("edge_on", 8, flux=2e6):
        angle, ratio = moments(image(index, galaxy))
        assert abs((angle - galaxy.position_angle + 90) % 180 - 90) < 4
        assert ratio < 0.4


def test_axis_ratio_of_ellipticals_is_the_true_one():
    for index, galaxy in galaxies("elliptical", 8, flux=2e6, half_light_radius=10.0):
        assert moments(image(index, galaxy))[1] == pytest.approx(galaxy.axis_ratio, abs=0.12)


@pytest.mark.parametrize("arms", [2, 3, 4])
@pytest.mark.parametrize("winding", [1, -1])
def test_arms_are_as_many_as_said_and_logarithmic(arms, winding):
    (_, galaxy), *_ = galaxies(
        "spiral", 1, arms=arms, winding=winding, pitch=20.0, arm_strength=1.0, bar=0.0
    )
    theta = np.linspace(-np.pi, np.pi, 3600, endpoint=False)
    ridges = []
    for radius in (12.0, 12.5):
        ring = mock.spiral_brightness(radius * np.cos(theta), radius * np.sin(theta), galaxy=galaxy)
        peaks = (ring > np.roll(ring, 1)) & (ring >= np.roll(ring, -1))
        assert peaks.sum() == arms
        ridges.append(theta[peaks])
    turned = np.log(12.5 / 12.0) / np.tan(np.radians(20)) * winding
    period = 2 * np.pi / arms
    moved = (ridges[1][0] - ridges[0][0] - turned + period / 2) % period - period / 2
    assert moved == pytest.approx(0, abs=0.01)


def test_a_larger_size_samples_the_same_galaxy_more_finely():
    (index, galaxy), *_ = galaxies("spiral", 1, flux=5e6)
    fine = image(index, galaxy, size=128).reshape(64, 2, 64, 2).sum((1, 3))
    coarse = image(index, galaxy, size=64)
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.99
    assert fine.sum() == pytest.approx(coarse.sum(), rel=0.03)


def test_the_table_has_every_galaxy_and_no_name_of_ours(survey):
    table = pq.read_table(survey / "survey.parquet")
    assert table.column("object_id").to_pylist() == [mock_files.object_id(i) for i in range(16)]
    assert RESERVED.intersection(table.column_names) == {"object_id", "ra", "dec", "image"}
    row = table.slice(5, 1).to_pylist()[0]
    galaxy = mock.draw_galaxy(11, 5)
    assert (row["ra"], row["truth_kind"]) == (galaxy.ra, galaxy.kind)
    assert all((survey / path).exists() for path in table.column("image").to_pylist())


def test_half_of_the_cutouts_are_fits_and_half_png(survey):
    files = [path.suffix for path in sorted((survey / "cutouts").iterdir())]
    assert files.count(".fits") == files.count(".png") == 8


def test_both_formats_hold_the_same_counts(survey):
    for index in (0, 2):
        galaxy = mock.draw_galaxy(11, index)
        counts = mock.draw_image(galaxy, seed=11, index=index, size=64)
        counts = np.minimum(counts, mock_files.CEILING - mock_files.PEDESTAL)
        data = (survey / mock_files.image_path(index)).read_bytes()
        if index:
            np.testing.assert_array_equal(fits.getdata(io.BytesIO(data)), counts)
        else:
            stored = np.asarray(Image.open(io.BytesIO(data))).astype(np.float64)
            assert np.abs(stored - mock_files.PEDESTAL - counts).max() <= 0.5001


def test_the_fits_header_says_where_and_in_which_unit(survey):
    header = fits.getheader(survey / mock_files.image_path(2))
    galaxy = mock.draw_galaxy(11, 2)
    centre = WCS(header).pixel_to_world(31.5, 31.5)
    assert (centre.ra.deg, centre.dec.deg) == pytest.approx((galaxy.ra, galaxy.dec))
    assert WCS(header).pixel_to_world(40, 31.5).ra < centre.ra
    assert header["BUNIT"] == "adu"


def test_lengths_in_the_table_are_pixels():
    row, _ = mock_files.make_cutout(11, 4, size=128, broken=0)
    assert row["truth_half_light_radius"] == 2 * mock.draw_galaxy(11, 4).half_light_radius


def test_cutouts_are_broken_in_turn_of_each_kind(survey):
    table = pq.read_table(survey / "survey.parquet")
    kinds = dict(enumerate(table.column("truth_broken").to_pylist()))
    broken = {index: kind for index, kind in kinds.items() if kind}
    assert broken == dict(zip(range(1, 13, 2), mock_files.BROKEN, strict=True))
    data = {
        kind: (survey / mock_files.image_path(index)).read_bytes() for index, kind in broken.items()
    }
    assert data["empty_file"] == b""
    assert data["truncated"].startswith(b"\x89PNG")
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(data["truncated"])).load()
    assert np.isnan(fits.getdata(io.BytesIO(data["missing_pixels"]))).mean() == 0.25
    assert np.ptp(np.asarray(Image.open(io.BytesIO(data["constant"])))) == 0
    assert Image.open(io.BytesIO(data["not_square"])).size == (32, 64)
    assert data["text"].startswith(b"<html>")


def test_every_second_cutout_at_most_is_broken():
    kinds = [mock_files.broken_kind(index, broken=100) for index in range(20)]
    assert sum(kind != "" for kind in kinds) == 10


def test_a_galaxy_is_the_same_whatever_the_count(survey, tmp_path):
    simulate.run(SimulateSettings(out=str(tmp_path), count=110, seed=11))
    for index in range(16):
        path = mock_files.image_path(index)
        assert (tmp_path / path).read_bytes() == (survey / path).read_bytes()
    first = pq.read_table(tmp_path / "survey.parquet").slice(0, 16)
    assert first.equals(pq.read_table(survey / "survey.parquet"))


def test_the_same_survey_is_left_and_another_refused(survey):
    before = (survey / "survey.parquet").stat().st_mtime_ns
    simulate.run(SimulateSettings(out=str(survey), count=16, seed=11))
    assert (survey / "survey.parquet").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r'wanted .*"seed":12.*got .*"seed":11'):
        simulate.run(SimulateSettings(out=str(survey), count=16, seed=12))


def test_without_galsim_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "galsim", None)
    with pytest.raises(InputError, match=r'pip install "avader\[mock\]"'):
        simulate.run(SimulateSettings(out=str(tmp_path), count=1))
    assert not any(tmp_path.iterdir())


def test_every_truth_has_a_meaning_and_a_unit():
    for field in mock_files.SCHEMA:
        if field.name.startswith("truth_") and field.name != "truth_broken":
            assert set(field.metadata) == {b"unit", b"description"}, field.name
            assert field.metadata[b"description"]
