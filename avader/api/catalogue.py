"""A finished folder as tables, images and objects made again.

    galaxies = avader.open_catalogue("s3://survey/catalogue").to_pandas()
    objects = avader.regenerate("catalogues/synthetic", [7, 10**8 - 1])

Legend: B images, C bands, H W pixels, D latent dimensions.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from avader.api.remade import Remaker
from avader.catalogue import rows
from avader.catalogue.columns import TRUTH_NAMES
from avader.errors import InputError
from avader.images.decode import decode_image
from avader.io import growth, shards, storage
from avader.io.manifest import Manifest
from avader.survey.stored import pixel_reader, stored_as_bytes

if TYPE_CHECKING:
    import pandas as pd


class Catalogue:
    """A finished folder: packed cutouts, a classified or a synthetic catalogue.

    manifest: what the folder holds and where it comes from. Only parts that the manifest lists
    are read.
    """

    def __init__(
        self, held: Manifest, *, model: str | None = None, device: str | None = None
    ) -> None:
        self.manifest = held
        self.remaker = Remaker(held, model, device)

    @cached_property
    def dataset(self) -> ds.Dataset:
        """All rows as a pyarrow dataset: read lazily, by columns and filters."""
        return shards.open_dataset(self.manifest.uri, self.manifest.paths)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in memory, in catalogue order; columns: those to read, all by default."""
        absent = sorted(set(columns or ()) - set(self.dataset.schema.names))
        if absent:
            raise InputError(
                f"wanted columns among {', '.join(self.dataset.schema.names)}, got "
                f"{', '.join(absent)}"
            )
        return self.dataset.to_table(columns=list(columns) if columns is not None else None)

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """As to_arrow, as a pandas data frame."""
        return self.to_arrow(columns).to_pandas()

    def rejects(self) -> pa.Table:
        """The objects that were refused: object_id, unit, reason, detail."""
        paths = [part["rejects_path"] for part in self.manifest.parts]
        return shards.open_dataset(self.manifest.uri, paths).to_table()

    @property
    def holds_images(self) -> bool:
        """Whether images are stored: not in a recipe, nor in a classified catalogue."""
        return "image" in self.dataset.schema.names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images. Raises InputError where the catalogue has none."""
        if self.manifest.rows_of == "synthetic":
            return tuple(self.manifest.facts["shape"])
        self._check_images()
        if stored_as_bytes(self.dataset.schema.field("image").type):
            return tuple(self.manifest.settings["shape"])
        return rows.image_shape(self.dataset.schema.field("image"))

    def images(self, row_numbers: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Images (B, C, H, W) of these rows, counted from 0 in catalogue order.

        Of a synthetic catalogue those of the objects of these indices. Pixels as stored; of a data
        set that holds files, as the preprocessing that it was packed with makes them; of a recipe,
        decoded anew by its model.
        """
        wanted = check_rows(row_numbers, self.manifest.totals["rows"])
        if self.manifest.kind == "synthetic" and not self.holds_images:
            return self.remaker.images(self.remaker.sky.drawn(wanted))
        self._check_images()
        return self.pixels(self._picked(wanted, ["image"])["image"])

    def truth(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
        """What is known of these objects of a synthetic catalogue, of all but their pixels.

        index, component, latent (B, D), log_likelihood and the measures of their images (B,), and
        orientations and positions where there are some: as stored, or of a catalogue without them
        measured anew.
        """
        wanted = check_rows(indices, self.manifest.totals["rows"])
        self.check_synthetic()
        names = [name for name in self.dataset.schema.names if name != "image"]
        if TRUTH_NAMES - set(names):
            return self.remaker.truth(wanted)
        found = self._picked(wanted, names)
        return {name: rows.values(found[name]) for name in names}

    def pixels(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """Pixels (B, C, H, W) of a column of this catalogue's images."""
        if not stored_as_bytes(column.type):
            return rows.flat_values(column).reshape(-1, *self.image_shape)
        if self.manifest.rows_of != "synthetic":
            return pixel_reader(self.manifest.settings)(column)
        pixels = np.empty((len(column), *self.image_shape), np.uint8)
        for image, data in zip(pixels, column, strict=True):
            image[...] = decode_image(data.as_py()).flux
        return pixels

    def _picked(self, wanted: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """These rows, in the order given; of parts and row groups without them nothing is read.

        Of a synthetic catalogue rows are named by their index.
        """
        owners, names = self._owners(wanted), list(columns)
        on_sky = bool(self.manifest.facts.get("shares"))
        starts = np.cumsum([0, *(part["rows"] for part in self.manifest.parts)])
        tables, places = [self.dataset.schema.empty_table().select(names)], [wanted[:0]]
        for owner in np.unique(owners):
            at = np.flatnonzero(owners == owner)
            place = self.manifest.uri, self.manifest.paths[owner]
            within = wanted[at] - starts[owner]
            if on_sky:  # rows are in the order of their positions
                index = shards.read_part(*place, ["index"])["index"].to_numpy()
                order = np.argsort(index)
                within = order[np.searchsorted(index, wanted[at], sorter=order)]
            tables.append(shards.take_rows(*place, within, names))
            places.append(at)
        back = np.argsort(np.concatenate(places))
        return pa.concat_tables(tables).take(pa.array(back))

    def _owners(self, wanted: NDArray[np.int64]) -> NDArray[np.intp]:
        """The part (B,) of each row, or of each object's index."""
        shares = self.manifest.facts.get("shares")
        if not shares:
            ends = np.cumsum([part["rows"] for part in self.manifest.parts])
            return np.searchsorted(ends, wanted, side="right")
        numbers, owner, held = list[int](), -1, 0
        for _, _, start, stop in shares:  # in the order of parts, each of which has some
            if held == 0:
                owner += 1
                held = self.manifest.parts[owner]["rows"]
            numbers.append(owner)
            held -= stop - start
        starts = np.array([start for _, _, start, _ in shares])
        order = np.argsort(starts)
        at = np.searchsorted(starts[order], wanted, side="right") - 1
        return np.array(numbers)[order][at]

    def _check_images(self) -> None:
        if not self.holds_images:
            whose = "synthetic catalogue that it was made from"
            if self.manifest.rows_of != "synthetic":
                whose = "packed cutouts that it was made from, and find their rows by object_id"
            raise InputError(
                f"wanted a catalogue with images, got one of {self.manifest.kind}; open the {whose}"
            )

    def check_synthetic(self) -> None:
        """Raise InputError where this is no synthetic catalogue."""
        if self.manifest.kind != "synthetic":
            raise InputError(
                f"wanted a synthetic catalogue, got {storage.public_uri(self.manifest.uri)} of "
                f"{self.manifest.kind}"
            )


def open_catalogue(uri: str, *, model: str | None = None, device: str | None = None) -> Catalogue:
    """The finished folder at a local path or a URI such as s3://bucket/folder.

    Of a synthetic catalogue, to make objects again: model, URI of its model's folder, where that
    has moved; device, torch's name, by default that which it was drawn on where this machine has
    one, else cpu. Raises InputError where the folder is not finished.
    """
    return Catalogue(growth.read_whole(storage.absolute(uri)), model=model, device=device)


def regenerate(
    catalogue: str | Catalogue,
    indices: Sequence[int] | NDArray[np.integer[Any]],
    *,
    model: str | None = None,
    device: str | None = None,
) -> dict[str, NDArray[Any]]:
    """Objects of a synthetic catalogue made again, without its rows, by its model.

    catalogue: opened, or its URI. indices: of B objects, in any order. model, device: as
    open_catalogue takes them, in their stead.

    Returns index (B,) int64, component (B,) int16, latent (B, D) float32, image (B, C, H, W) uint8;
    where objects lie on the sky ra, dec and _healpix_29 (B,), and where they are turned at random
    orientation_angle and orientation_flips (B,). Bit for bit what the catalogue holds on the same
    kind of machine and device and the same versions of packages; elsewhere latents may differ in
    their last bit, and pixels slightly. JPEG files hold these pixels as nearly as their quality
    allows. Raises InputError for indices beyond the catalogue, another model, and a catalogue that
    is not synthetic.
    """
    if isinstance(catalogue, str):
        catalogue = open_catalogue(catalogue)
    catalogue.check_synthetic()
    wanted = check_rows(indices, catalogue.manifest.totals["rows"])
    held, remaker = catalogue.manifest, catalogue.remaker
    if model is not None or device is not None:
        remaker = Remaker(held, model or remaker.model, device or remaker.device)
    drawn = remaker.sky.drawn(wanted)
    return {**drawn, **remaker.places(wanted), "image": remaker.images(drawn)}


def check_rows(numbers: Sequence[int] | NDArray[np.integer[Any]], total: int) -> NDArray[np.int64]:
    """Row numbers as int64. Raises InputError for what is no integer from 0 to total - 1."""
    given = np.asarray(numbers)
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"wanted integers, got {given.dtype}")
    wanted = given.astype(np.int64).reshape(-1)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < total):
        raise InputError(f"wanted rows from 0 to {total - 1}, got {wanted.min()}..{wanted.max()}")
    return wanted
