"""A grown folder compacted: the same rows and rejects, in pixels cut anew."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from avader.catalogue.pixels import named_pixel
from avader.catalogue.rows import Reject
from avader.catalogue.schema import reject_schema
from avader.config import CompactSettings, VerifySettings
from avader.errors import InputError
from avader.images.checks import Reason
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines import compact, verify
from tests.catalogues import classified, write_folder

SIZES = (60, 25, 40)


@pytest.fixture(params=[True, False], ids=["positions", "no positions"])
def grown(request, tmp_path) -> str:
    """Three increments of some parts each; the second one has rejects."""
    out = str(tmp_path / "grown")
    for number in range(1, len(SIZES) + 1):
        table = classified(sum(SIZES[:number]), seed=3, positions=request.param)
        table = table.slice(sum(SIZES[: number - 1]))
        refused = [Reject("bad", Reason.NOT_FINITE, "no number")] if number == 2 else []
        write_folder(growth.folder(out, number), table, per_part=9, refused=refused)
        growth.publish(out, number)
    return out


def rows_of(held: Manifest) -> pa.Table:
    tables = [shards.read_whole_part(held.uri, part) for part in held.parts]
    return pa.concat_tables(tables)


def ids(held: Manifest) -> Counter[str]:
    return Counter(rows_of(held)["object_id"].to_pylist())


def test_rows_stay_and_shards_are_cut_anew(grown, tmp_path, ray_session):
    before, out = growth.read_whole(grown), str(tmp_path / "compact")
    compact.run(CompactSettings(data=grown, out=out, rows_per_shard=30, workers=1))
    after = growth.read_whole(out, kind="classified")
    assert after.totals == before.totals == {"rows_in": 126, "rows": 125, "rejects": 1}
    assert ids(after) == ids(before)
    key = lambda table: table.sort_by("object_id").to_pylist()  # noqa: E731
    assert key(rows_of(after)) == key(rows_of(before))
    assert max(part["rows"] for part in after.parts) <= 30
    assert len(after.parts) < len(before.parts)
    table = rows_of(after)
    if "_healpix_29" in table.column_names:
        places = table["_healpix_29"].to_numpy()
        assert (np.diff(places) >= 0).all()
        for part in after.parts:
            first, stop = named_pixel(part["path"][len("parts/") : -len(".parquet")]).span
            here = shards.read_part(out, part["path"])["_healpix_29"].to_numpy()
            assert ((first <= here) & (here < stop)).all()
    for part in after.parts:
        rejects = shards.read_part(out, part["rejects_path"])
        assert rejects.schema.field("unit").metadata == reject_schema().field("unit").metadata
    verify.run(VerifySettings(catalogue=out))


@pytest.mark.long
def test_repeated_it_is_the_same(grown, tmp_path, ray_session):
    out = [str(tmp_path / name) for name in ("one", "two")]
    for folder, workers in zip(out, (1, 2), strict=True):
        compact.run(CompactSettings(data=grown, out=folder, rows_per_shard=30, workers=workers))
    one, two = (growth.read_whole(folder) for folder in out)
    assert one.digest == two.digest


def test_a_synthetic_sky_does_not_grow(tmp_path):
    table = pa.table({"index": [0, 1]})
    folder = write_folder(tmp_path / "sky", table, per_part=2, kind="synthetic")
    with pytest.raises(InputError, match="got a folder of synthetic"):
        compact.run(CompactSettings(data=folder, out=str(tmp_path / "out")))
    assert not storage.exists(str(tmp_path / "out"))
