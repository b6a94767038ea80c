"""The rows of one tile of the sky, or of its margin, from the parts of a catalogue.

The largest tile is held in a worker three times: as the bytes of its parts, as its rows, and as the
bytes of its file; of a margin, the positions of a few parts and the rows that are wanted, with
some more where they hold images, while these are decoded.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from avader.catalogue import rows
from avader.catalogue.margins import Margin
from avader.catalogue.pixels import Pixel, named_pixel
from avader.errors import InputError
from avader.io import shards
from avader.pipelines.stages import UnitRows
from avader.pipelines.tiling.versions import Part
from avader.plan import Unit

IMAGE_READERS = 4


def tile_unit(tile: Pixel, parts: Sequence[Part]) -> Unit:
    """The unit of a tile, made from these parts."""
    named = [{name: part[name] for name in ("path", "rows", "sha256")} for part in parts]
    return Unit(tile.name, {"parts": named})


def tile_of(unit: str) -> Pixel:
    """The tile that a unit of this name is of."""
    tile = named_pixel(unit)
    assert tile is not None, unit
    return tile


def join_parts(uri: str, unit: Unit, _: None) -> UnitRows:
    """The rows of a tile: those of its parts, one part after another.

    Raises InputError where they are not sorted by `_healpix_29`, or lie outside of the tile.
    """
    with ThreadPoolExecutor(shards.READERS) as pool:
        found = list(pool.map(partial(shards.read_whole_part, uri), unit.inputs["parts"]))
    table = pa.concat_tables(found)
    places = table["_healpix_29"].to_numpy()
    first, stop = tile_of(unit.name).span
    sorted_ = bool((places[:-1] <= places[1:]).all())
    if not (sorted_ and first <= places[0] and places[-1] < stop):
        raise InputError(
            f"wanted rows sorted by _healpix_29 within tile {unit.name}, got others in "
            f"{unit.inputs['parts'][0]['path']} or the next ones; make that catalogue again"
        )
    return UnitRows(table.num_rows, table, rows.reject_table([], unit.name))


def margin_readers(columns: Sequence[str]) -> int:
    """Parts of which a margin's rows are read at once: fewer where the rows hold images."""
    return IMAGE_READERS if "image" in columns else shards.READERS


def gather_margin(uri: str, arcsec: float, columns: Sequence[str], unit: Unit, _: None) -> UnitRows:
    """The rows of a tile's margin, from the parts around it; positions are read first.

    Sorted by `_healpix_29`: of one pixel there may be parts of several increments.
    """
    margin = Margin(tile_of(unit.name), arcsec)

    def rows_of(part: Part) -> pa.Table:
        return shards.select_rows(uri, part["path"], margin, columns)

    # Several at once: a part of a far storage is many small requests, one after another.
    with ThreadPoolExecutor(margin_readers(columns)) as pool:
        table = pa.concat_tables(pool.map(rows_of, unit.inputs["parts"]))
    table = table.take(np.argsort(table["_healpix_29"].to_numpy(), kind="stable"))
    return UnitRows(table.num_rows, table, rows.reject_table([], unit.name))
