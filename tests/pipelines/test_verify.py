"""`verify` on small folders by the real writers, sound and damaged in one way after another."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avader.catalogue import rows, schema
from avader.cli import main
from avader.config import VerifySettings
from avader.errors import InputError, VerificationError
from avader.io import manifest, shards
from avader.pipelines import verify
from avader.plan import Plan, Unit, unit_name

PARTS, ROWS, LATENT, COMPONENTS = 3, 10, 2, 4
REFUSED = [rows.Reject("bad0", "constant", "all 7"), rows.Reject("bad1", "not_finite", "NaN")]
LAST = "parts/00000002.parquet"


def classified(number: int) -> dict[str, np.ndarray]:
    """Columns of a sound part of a classified catalogue."""
    generator = np.random.default_rng(number)
    g = generator.dirichlet(np.ones(COMPONENTS), ROWS)
    return {
        "object_id": np.array([f"g{number}{row}" for row in range(ROWS)], object),
        "component": g.argmax(axis=1).astype(np.int16),
        "probability": g,
        "probability_broad": generator.dirichlet(np.ones(COMPONENTS), ROWS),
        "entropy": np.zeros(ROWS),
        "stability": generator.integers(1, 9, ROWS) / 8,
        "latent_mean": generator.normal(size=(ROWS, LATENT)),
        "latent_logvar": generator.normal(size=(ROWS, LATENT)),
        "log_likelihood": generator.normal(size=ROWS),
        "reconstruction_error": np.ones(ROWS),
        "flags": np.zeros(ROWS, np.int32),
    }


def tables(optional=("stability",)) -> list[pa.Table]:
    wanted = schema.classified_schema(
        latent=LATENT, components=COMPONENTS, positions=False, optional=optional
    )
    return [rows.table(wanted, classified(number)) for number in range(PARTS)]


def write(folder: Path, parts: list[pa.Table], kind="classified", rejects=None) -> Path:
    """A finished folder of these parts; the first has two rejects, unless others are given."""
    units = tuple(Unit(unit_name(number), {}) for number in range(len(parts)))
    plan = Plan(kind, {}, units)
    receipts = []
    for unit, table in zip(units, parts, strict=True):
        refused = rows.reject_table([] if receipts else REFUSED, unit.name)
        if rejects is not None:
            refused = rejects
        rows_in = table.num_rows + refused.num_rows
        receipts.append(
            shards.write_unit(str(folder), unit, rows_in=rows_in, table=table, rejects=refused)
        )
    manifest.write_manifest(str(folder), plan, receipts, provenance={})
    return folder


@pytest.fixture
def lines(caplog):
    """Runs verify on a folder -> its lines by check, whether it passes or fails."""
    caplog.set_level("INFO", logger="avader")

    def run(folder: Path) -> dict[str, str]:
        caplog.clear()
        try:
            verify.run(VerifySettings(catalogue=str(folder)))
        except VerificationError:
            said = caplog.messages[1:]
        else:
            said = caplog.messages[1:-1]
            assert caplog.messages[-1] == f"all checks passed: {folder}"
        found = [line.strip() for line in said]
        return {line.split()[1].rstrip(":"): line for line in found}

    return run


def failed(found: dict[str, str]) -> set[str]:
    return {name for name, line in found.items() if line.startswith("FAILED")}


def partly(found: dict[str, str]) -> set[str]:
    return {name for name, line in found.items() if line.startswith("PARTLY")}


def replaced(parts: list[pa.Table], number: int, **columns) -> list[pa.Table]:
    """The parts with other columns in one of them, of the same types."""
    table = parts[number]
    values = {name: table[name] for name in table.column_names} | columns
    return [*parts[:number], rows.table(table.schema, values), *parts[number + 1 :]]


def test_one_line_a_check(tmp_path, lines):
    assert list(lines(write(tmp_path, tables())).values()) == [
        "ok     listing: 6 objects in the folder, 6 in the manifest",
        "ok     counts: 32 rows in = 30 rows + 2 rejects in 3 parts",
        "ok     digests: SHA-256 of 6 objects",
        "ok     schema: 11 columns of 3 parts, 4 of their rejects",
        "ok     ids: presence in 30 rows",
        "ok     probabilities: sums of probability and probability_broad in 30 rows",
        "ok     components: highest probability in 30 rows",
        "ok     numbers: finite latents and likelihoods in 30 rows",
        "ok     stability: shares of 8 views in 30 rows",
        "ok     duplicates: comparison of 30 ids",
        "ok     reasons: of 2 rejects",
    ]


def test_columns_that_may_be_absent_have_no_line(tmp_path, lines):
    found = lines(write(tmp_path, tables(optional=())))
    assert "stability" not in found
    assert found["schema"] == "ok     schema: 10 columns of 3 parts, 4 of their rejects"


def test_a_synthetic_catalogue(tmp_path, lines):
    names = ("index", "component", "latent", "image")
    wanted = schema.synthetic_schema((1, 2, 2), latent=LATENT, names=names)

    def part(indices):
        columns = {
            "index": np.array(indices),
            "component": np.zeros(len(indices), np.int16),
            "latent": np.ones((len(indices), LATENT)),
            "image": np.zeros((len(indices), 4), np.uint8),
        }
        return rows.table(wanted, columns)

    none = rows.reject_table([], "")
    good = [part(range(5)), part(range(5, 7))]
    found = lines(write(tmp_path / "good", good, "synthetic", none))
    assert list(found) == [
        *("listing", "counts", "digests", "schema", "numbers", "indices", "reasons")
    ]
    assert found["indices"] == "ok     indices: sequence from 0 of 7 rows"
    found = lines(write(tmp_path / "bad", [part(range(5)), part([6, 5])], "synthetic", none))
    assert found["indices"].endswith("; parts/00000001.parquet: its indices do not go on from 5")
    assert failed(found) == {"indices"}


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_packed_cutouts(tmp_path, lines, dtype):
    wanted = schema.cutout_schema((1, 3, 3), dtype=dtype, positions=True, optional=["source_mask"])
    columns = {
        "object_id": np.array(["a", "b"], object),
        "ra": np.array([1.0, 2.0]),
        "dec": np.array([1.0, 2.0]),
        "_healpix_29": np.array([1, 2]),
        "image": np.zeros((2, 1, 3, 3), dtype),
        "limit_low": np.array([0.0, 1.0]),
        "limit_high": np.array([1.0, 1.0]),
        "source_mask": np.zeros((2, 2), np.uint8),
        "flags": np.zeros(2, np.int32),
    }
    found = lines(write(tmp_path, [rows.table(wanted, columns)], "cutouts"))
    assert list(found) == [
        *("listing", "counts", "digests", "schema", "ids", "limits", "duplicates", "reasons")
    ]
    assert failed(found) == {"limits"}
    fault = "1 cutouts whose limits are not low < high"
    assert found["limits"].endswith(f"in 2 rows; parts/00000000.parquet: {fault}")


@pytest.mark.parametrize(
    ("columns", "check", "fault"),
    [
        ({"object_id": [""] + ["x"] * 9}, "ids", "1 rows without an id"),
        ({"object_id": [None, *map(str, range(9))]}, "ids", "1 rows without object_id"),
        ({"probability_broad": np.zeros((10, 4))}, "probabilities", "10 rows whose probability_b"),
        ({"probability": np.full((10, 4), 0.3)}, "probabilities", "10 rows whose probability does"),
        ({"probability": np.full((10, 4), np.nan)}, "probabilities", "10 rows whose probability"),
        ({"component": np.full(10, -1)}, "components", "10 rows whose component is not the most"),
        ({"component": np.full(10, 4)}, "components", "10 rows whose component is not the most"),
        ({"latent_logvar": np.full((10, 2), np.inf)}, "numbers", "10 rows with numbers that are"),
        ({"log_likelihood": np.full(10, np.nan)}, "numbers", "10 rows with numbers that are not"),
        ({"stability": np.full(10, 0.3)}, "stability", "10 rows whose stability is none of 1/8"),
        ({"stability": np.zeros(10)}, "stability", "10 rows whose stability is none of 1/8"),
        ({"object_id": [f"g0{row}" for row in range(10)]}, "duplicates", "10 rows repeat the id"),
    ],
)
def test_a_writer_at_fault(tmp_path, lines, columns, check, fault):
    """Right digests around wrong rows, in the last part, which the line names."""
    columns = {
        name: pa.array(values) if name == "object_id" else values
        for name, values in columns.items()
    }
    found = lines(write(tmp_path, replaced(tables(), 2, **columns)))
    assert check in failed(found)
    assert f"; {LAST}: {fault}" in found[check]
    assert failed(found) <= {check, "duplicates", "components"}
    assert not partly(found)


def test_null_vectors_are_faults(tmp_path, lines):
    broad = tables()[0]["probability_broad"].to_pylist()
    nulls = pa.array([None, *broad[1:]], pa.list_(pa.float32(), COMPONENTS))
    found = lines(write(tmp_path, replaced(tables(), 0, probability_broad=nulls)))
    fault = "; parts/00000000.parquet: 1 rows without probability_broad"
    assert found["probabilities"].endswith(fault)
    assert failed(found) == {"probabilities"}


def test_wrong_columns(tmp_path, lines):
    """A declared column that isn't there, or of another type, leaves its checks undone."""
    found = lines(write(tmp_path / "a", [table.drop_columns("entropy") for table in tables()]))
    assert found["schema"].endswith("; parts/00000000.parquet: wanted a column entropy")
    assert failed(found) == {"schema"}
    found = lines(write(tmp_path / "b", [t.drop_columns("probability_broad") for t in tables()]))
    assert failed(found) == {"schema"}
    assert found["probabilities"].startswith("PARTLY probabilities: ")
    assert found["probabilities"].endswith("in 0 of 30 rows")
    doubles = [
        table.set_column(6, "latent_mean", pa.array(table["latent_mean"].to_pylist()))
        for table in tables()
    ]
    found = lines(write(tmp_path / "c", doubles))
    assert "wanted latent_mean of float[D], got list<" in found["schema"]
    assert found["numbers"].endswith("in 0 of 30 rows")
    parts = tables()
    found = lines(write(tmp_path / "d", [*parts[:2], parts[2].drop_columns("flags")]))
    assert found["schema"].endswith(f"; {LAST}: its columns differ from the first part's")


def test_wrong_rejects(tmp_path, lines):
    unknown = rows.reject_table([rows.Reject("bad", "tired", "no reason")], "x")
    found = lines(write(tmp_path / "a", tables(), rejects=unknown))
    assert "; rejects/00000002.parquet: unknown reason 'tired'" in found["reasons"]
    assert failed(found) == {"reasons"}
    found = lines(write(tmp_path / "b", tables(), rejects=unknown.drop_columns("reason")))
    assert "; rejects/00000002.parquet: wanted object_id, unit, reason, detail" in found["schema"]
    assert failed(found) == {"schema"}
    assert found["reasons"] == "PARTLY reasons: of 0 of 3 rejects"


class TestDamage:
    """A sound folder, changed after it was written."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return write(tmp_path, tables())

    def test_a_changed_byte(self, folder, lines):
        data = bytearray((folder / LAST).read_bytes())
        data[100] ^= 1
        (folder / LAST).write_bytes(data)
        found = lines(folder)
        assert found["digests"] == (
            f"FAILED digests: SHA-256 of 6 objects; {LAST}: its bytes are not those that were "
            "written"
        )
        assert found["counts"] == (
            "FAILED counts: 32 rows in, 20 rows + 2 rejects out, in 2 of 3 parts; "
            f"{LAST}: 0 rows read, wanted 10"
        )
        assert failed(found) == {"digests", "counts"}
        assert found["ids"] == "PARTLY ids: presence in 20 of 30 rows"
        assert found["duplicates"] == "PARTLY duplicates: comparison of 20 of 30 ids"
        assert found["schema"].startswith("PARTLY schema: 11 columns of 2 of 3 parts")
        assert found["listing"].startswith("ok ")

    def test_missing_objects(self, folder, lines):
        (folder / "parts" / "00000000.parquet").unlink()
        (folder / "rejects" / "00000000.parquet").unlink()
        found = lines(folder)
        assert "; parts/00000000.parquet: cannot read" in found["digests"]
        assert "; rejects/00000000.parquet: cannot read" in found["digests"]
        assert "rejects/00000000.parquet: 0 rejects read, wanted 2" in found["counts"]
        assert found["reasons"] == "PARTLY reasons: of 0 of 2 rejects"

    def test_strangers_told_and_counted(self, folder, lines):
        for number in range(7):
            (folder / "parts" / f"stray{number}").write_text("")
        found = lines(folder)
        assert found["listing"].startswith(
            "FAILED listing: 13 objects in the folder, 6 in the manifest; "
            "parts/stray0: not in the manifest; "
        )
        assert found["listing"].endswith("; parts/stray4: not in the manifest; and 2 more")
        assert failed(found) == {"listing"}

    def test_a_part_that_is_no_parquet(self, folder, lines):
        (folder / LAST).write_bytes(b"PAR1 not really")
        held = json.loads((folder / "manifest.json").read_text())
        held["parts"][2]["sha256"] = hashlib.sha256(b"PAR1 not really").hexdigest()
        (folder / "manifest.json").write_text(json.dumps(held))
        found = lines(folder)
        assert f"; {LAST}: wanted Parquet, got " in found["schema"]
        assert failed(found) == {"schema", "counts"}

    def test_lost_rows(self, folder, lines):
        held = json.loads((folder / "manifest.json").read_text())
        held["parts"][2]["rows_in"] = 11
        held["totals"]["rows_in"] = 33
        (folder / "manifest.json").write_text(json.dumps(held))
        assert lines(folder)["counts"] == (
            "FAILED counts: 33 rows in, 30 rows + 2 rejects out, in 3 parts; "
            f"{LAST}: 11 rows in, 10 rows + 0 rejects out"
        )
        held["totals"]["rows_in"] = 32
        (folder / "manifest.json").write_text(json.dumps(held))
        fault = "rows_in: the parts hold 33, the total says 32"
        assert fault in lines(folder)["counts"]

    def test_exit_code_and_the_checks_that_failed(self, folder, capfd):
        assert main(["verify", "--catalogue", str(folder)]) == 0
        (folder / "parts" / "stray").write_text("")
        (folder / LAST).unlink()
        assert main(["verify", "--catalogue", str(folder)]) == 1
        shown = "".join(capfd.readouterr())
        assert f"3 checks failed (listing, counts, digests); do not use {folder}" in shown
        assert "Traceback" not in shown


def test_folders_of_another_kind(tmp_path):
    folder = write(tmp_path, tables(), kind="trees")
    with pytest.raises(InputError, match="wanted a catalogue or packed cutouts, got a folder of t"):
        verify.run(VerifySettings(catalogue=str(folder)))
