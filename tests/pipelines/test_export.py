"""`export` from finished folders to files, by the command line."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from avader.api import open_catalogue
from avader.catalogue import rows, schema
from avader.cli import main
from avader.io import shards, storage
from tests.catalogues import COMPONENTS, LATENT, classified, write_folder

COUNT = 300


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> str:
    """A classified catalogue in four parts, with carried columns, some of them awkward."""
    table = classified(
        COUNT,
        seed=3,
        objid=pa.array([2**63 - 1 - number for number in range(COUNT)]),
        note=pa.array(["café" if number == 7 else "plain" for number in range(COUNT)]),
        history=pa.array([[number] for number in range(COUNT)], pa.list_(pa.int64())),
    )
    return write_folder(tmp_path_factory.mktemp("catalogue") / "sky", table, per_part=80)


@pytest.fixture(scope="module")
def frame(catalogue) -> pd.DataFrame:
    """All its rows, as another reader has them."""
    found = open_catalogue(catalogue).to_pandas()
    pairs = zip(found.probability, found.component, strict=True)
    return found.assign(own=[float(values[component]) for values, component in pairs])


@pytest.fixture
def run(capfd, tmp_path):
    """Runs `export` with options; gives its exit code and what it said."""

    def export(catalogue, *options, out="rows.fits"):
        code = main(["export", "--catalogue", catalogue, "--out", str(tmp_path / out), *options])
        shown = capfd.readouterr()
        return code, shown.out + shown.err

    return export


def ids_of(path) -> list[str]:
    table = Table.read(path)
    return [str(value) for value in table["object_id"]]


def test_all_rows_and_what_is_left_out(run, tmp_path, catalogue, frame):
    code, said = run(catalogue)
    assert code == 0
    assert f"wrote 300 of 300 rows to {tmp_path}/rows.fits" in said
    assert "left out: note, FITS holds ASCII text alone" in said
    assert "left out: history, of a type without a plain form, list<" in said
    table = Table.read(tmp_path / "rows.fits")
    assert ids_of(tmp_path / "rows.fits") == frame.object_id.tolist()
    assert table["objid"].tolist() == frame.objid.tolist()
    assert table["probability"].shape == (COUNT, COMPONENTS)
    assert table["latent_mean"].shape == (COUNT, LATENT)
    np.testing.assert_array_equal(table["probability"], np.stack(frame.probability))
    assert not {"note", "history"} & set(table.colnames)
    about = open_catalogue(catalogue).manifest
    header = fits.getheader(tmp_path / "rows.fits", 1)
    history = "\n".join(header["HISTORY"])
    assert f"catalogue_manifest_sha256:\n{about.digest}" in history
    assert "m" * 64 in history
    assert "selection: all rows" in history
    assert "10.1093/mnras/staa3670" in "".join(header["COMMENT"])


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 10.0), (359.0, -80.0), (200.0, 90.0)])
def test_a_cone(run, tmp_path, catalogue, frame, ra, dec):
    radius = 25 * 3600
    code, said = run(catalogue, "--cone", f"{ra},{dec},{radius}")
    apart = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(frame.ra, frame.dec, unit="deg"))
    expected = frame.object_id[apart.arcsec <= radius].tolist()
    assert code == 0
    assert 3 < len(expected) < 40
    assert ids_of(tmp_path / "rows.fits") == expected
    assert f"wrote {len(expected)} of 300 rows" in said


def test_component_and_probability_and_cone_combine(run, tmp_path, catalogue, frame):
    options = ["--component", "1,3", "--min-probability", "0.8", "--cone", "90,0,200000"]
    assert run(catalogue, *options, "--columns", "component,object_id,ra", out="x.csv")[0] == 0
    apart = SkyCoord(90, 0, unit="deg").separation(SkyCoord(frame.ra, frame.dec, unit="deg"))
    wanted = frame.component.isin([1, 3]) & (frame.own >= 0.8) & (apart.arcsec <= 200_000)
    found = pd.read_csv(tmp_path / "x.csv", dtype={"object_id": str})
    expected = frame[wanted][["component", "object_id", "ra"]].reset_index(drop=True)
    assert 5 < len(expected) < 100
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)
    assert "component 1, 3; probability" in (tmp_path / "x.csv.txt").read_text()


def test_ids_from_a_file_and_from_the_command_line(run, tmp_path, catalogue, frame):
    wanted = [frame.object_id[250], frame.object_id[3], frame.object_id[81]]
    names = tmp_path / "ids.txt"
    names.write_text("\ufeff" + "\r\n".join([*wanted, "", f" {wanted[0]} ", "nobody"]))
    code, said = run(catalogue, "--ids", str(names))
    assert code == 0
    assert ids_of(tmp_path / "rows.fits") == [wanted[1], wanted[2], wanted[0]]
    assert "no row for 1 of 4 ids: nobody" in said
    code, said = run(catalogue, "--ids", f"{wanted[0]}, {wanted[1]}", "--columns", "ra")
    table = Table.read(tmp_path / "rows.fits")
    assert code == 0
    assert table.colnames == ["ra"]
    assert table["ra"].tolist() == frame.ra[[3, 250]].tolist()
    assert "no row for" not in said


@pytest.mark.parametrize("out", ["none.fits", "none.vot", "none.csv"])
def test_no_row_selected_is_a_table_without_rows(run, tmp_path, catalogue, out):
    code, said = run(catalogue, "--ids", "nobody", out=out)
    assert code == 0
    assert "wrote 0 of 300 rows" in said
    assert "no row for 1 of 1 ids: nobody" in said
    found = pd.read_csv(tmp_path / out) if out.endswith("csv") else Table.read(tmp_path / out)
    assert len(found) == 0
    assert "object_id" in list(found.columns)


def test_the_format_may_be_named_and_the_same_command_repeated(run, tmp_path, catalogue):
    options = ["--format", "votable", "--component", "2"]
    assert run(catalogue, *options, out="rows.dat")[0] == 0
    first = (tmp_path / "rows.dat").read_bytes()
    found = Table.read(tmp_path / "rows.dat", format="votable")
    assert set(found["component"]) == {2}
    assert "café" in open_catalogue(catalogue).to_pandas().note.tolist()
    assert run(catalogue, *options, out="rows.dat")[0] == 0
    assert (tmp_path / "rows.dat").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.dat"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "rows.txt"], "ends with .fits, .fit, .vot, .votable, .xml, .csv, got rows.txt"),
        (["--component", "1,4"], "--component: wanted numbers from 0 to 3, got 1, 4"),
        (["--columns", "ra,colour"], "--columns: wanted names among object_id, ra, dec, _hea"),
        (["--columns", "history"], "history cannot be exported, of a type without a plain form"),
        (["--ids", " , "], "--ids: wanted at least one id, got none"),
        (["--ids", "s3x://b/ids.txt"], "wanted a local path or a URI"),
        (["--cone", "10,91,5"], "--cone: wanted RA,DEC,RADIUS, with RA in -360..360 and Dec in"),
        (["--cone", "10,20"], "at most 648000 arcsec, got 10.0,20.0"),
        (["--cone", "10,20,0"], "a radius above 0"),
        (["--min-probability", "80"], "--min-probability: wanted less than or equal to 1"),
        (["--columns", "note", "--out", "n.fits"], "no column is left that fits can hold"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, catalogue, options, message):
    monkeypatch.chdir(tmp_path)
    code, said = run(catalogue, *options)
    assert code == 2
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_a_catalogue_without_positions_and_one_with_ids_beyond_ascii(run, tmp_path):
    table = classified(20, positions=False)
    names = pa.array([f"Gänse {number}" for number in range(20)])
    bare = write_folder(tmp_path / "bare", table.set_column(0, "object_id", names), per_part=9)
    code, said = run(bare, "--cone", "10,20,30")
    assert code == 2
    assert "--cone: wanted a catalogue with positions, got" in said
    code, said = run(bare)
    assert code == 2
    assert "column object_id cannot be written as fits: FITS holds ASCII text alone" in said
    assert not (tmp_path / "rows.fits").exists()
    assert run(bare, "--ids", "Gänse 3,Gänse 11", out="rows.vot")[0] == 0
    assert ids_of(tmp_path / "rows.vot") == ["Gänse 3", "Gänse 11"]


def test_a_synthetic_catalogue(run, tmp_path):
    count = 30
    generator = np.random.default_rng(0)
    columns = {
        "index": np.arange(count),
        "component": generator.integers(0, COMPONENTS, count).astype(np.int16),
        "latent": generator.normal(size=(count, LATENT)).astype(np.float32),
        "image": np.zeros((count, 64), np.uint8),
    }
    table = rows.table(schema.synthetic_schema((1, 8, 8), latent=LATENT, names=columns), columns)
    settings = {"model": "m" * 64}
    sky = write_folder(
        tmp_path / "sky", table, per_part=12, kind="synthetic", settings=settings, facts={}
    )
    code, said = run(sky, "--ids", "3,29,40")
    assert code == 0
    assert "left out: image, pixels" in said
    assert "no row for 1 of 3 ids: 40" in said
    found = Table.read(tmp_path / "rows.fits")
    assert found.colnames == ["index", "component", "latent"]
    assert found["index"].tolist() == [3, 29]
    np.testing.assert_array_equal(found["latent"], columns["latent"][[3, 29]])
    for options, message in [
        (["--ids", "3,x"], "--ids: wanted whole numbers"),
        (["--min-probability", "0.5"], "wanted a catalogue with probabilities"),
        (["--columns", "image"], "image cannot be exported, pixels; read it with"),
    ]:
        code, said = run(sky, *options)
        assert code == 2
        assert message in said


def test_packed_cutouts_without_their_pixels(run, tmp_path):
    count = 12
    wanted = schema.cutout_schema((1, 8, 8), dtype="uint8", positions=True)
    columns = {
        "object_id": np.array([f"g{number}" for number in range(count)], object),
        "ra": np.linspace(0, 1, count),
        "dec": np.zeros(count),
        "_healpix_29": np.arange(count),
        "image": np.zeros((count, 1, 8, 8), np.uint8),
        "limit_low": np.zeros(count),
        "limit_high": np.ones(count),
        "flags": np.zeros(count, np.int32),
    }
    folder = write_folder(
        tmp_path / "cutouts", rows.table(wanted, columns), per_part=5, kind="cutouts", facts={}
    )
    code, said = run(folder, "--cone", "0.5,0,1000", out="rows.vot")
    assert code == 0
    assert "left out: image, pixels" in said
    found = Table.read(tmp_path / "rows.vot")
    near = np.abs(columns["ra"] - 0.5) * 3600 <= 1000
    assert found["ra"].tolist() == columns["ra"][near].tolist()
    code, said = run(folder, "--component", "1")
    assert code == 2
    assert "--component: wanted a catalogue with components, got" in said


def test_parts_are_as_the_manifest_lists_them(run, tmp_path):
    """A part that is not listed is not read."""
    folder = write_folder(tmp_path / "c", classified(10), per_part=5)
    pq.write_table(classified(3, seed=9), tmp_path / "c" / "parts" / "stranger.parquet")
    assert "wrote 10 of 10 rows" in run(folder)[1]


def test_on_s3(capfd, s3_uri, tmp_path):
    """The same bytes as on local disk; an absent file of ids is no id."""
    sky, out = f"{s3_uri}/sky", f"{s3_uri}/out/rows.csv"
    table = classified(40)
    write_folder(sky, table, per_part=9)
    storage.write_bytes(f"{s3_uri}/ids.txt", b"100000000000000033\n100000000000000002\n")
    ids = ["--ids", f"{s3_uri}/ids.txt"]
    assert main(["export", "--catalogue", sky, "--out", out, *ids]) == 0
    assert "wrote 2 of 40 rows to s3://" in capfd.readouterr().out
    local = write_folder(tmp_path / "sky", table, per_part=9)
    assert main(["export", "--catalogue", local, "--out", str(tmp_path / "rows.csv"), *ids]) == 0
    assert storage.read_bytes(out) == (tmp_path / "rows.csv").read_bytes()
    assert b"2 ids" in storage.read_bytes(f"{out}.txt")
    absent = ["--ids", f"{s3_uri}/absent.txt"]
    assert main(["export", "--catalogue", sky, "--out", out, *absent]) == 2
    assert "cannot read s3://" in capfd.readouterr().err


def test_an_output_that_cannot_be_is_refused_before_any_row_is_read(
    run, tmp_path, catalogue, monkeypatch
):
    monkeypatch.setattr(shards, "select_rows", None)
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for out, why in (("folder.fits", "Is a directory"), ("file/rows.fits", "Not a directory")):
        code, said = run(catalogue, out=out)
        assert code == 2
        assert f"cannot write {tmp_path}/{out}" in said
        assert why in said


@pytest.mark.parametrize("ending", ["fits", "vot"])
def test_vectors_of_one_element_stay_vectors(run, tmp_path, ending):
    table = classified(20, latent=1)
    folder = write_folder(tmp_path / "sky", table, per_part=8)
    assert run(folder, out=f"rows.{ending}")[0] == 0
    found = Table.read(tmp_path / f"rows.{ending}")
    assert found["latent_mean"].shape == (20, 1)
    wanted = np.array(table["latent_mean"].to_pylist(), np.float32)
    np.testing.assert_array_equal(np.asarray(found["latent_mean"]), wanted)
