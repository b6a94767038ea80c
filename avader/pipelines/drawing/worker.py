"""One range of objects after another: drawn, decoded, measured; then encoded as files."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avader.api import load_model
from avader.catalogue import rows, schema
from avader.catalogue.columns import FILE_TYPE, POSITION_NAMES
from avader.catalogue.pixels import named_pixel
from avader.config import GenerateSettings
from avader.errors import HaltError
from avader.images.encode import encode_image
from avader.mixture.sample import Draw
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.drawing.placing import Placing, placing_of
from avader.pipelines.matching import check_model
from avader.pipelines.memory import keep_freed_memory
from avader.pipelines.stages import UnitRows
from avader.plan import Unit, ranges
from avader.synthetic.positions import place
from avader.synthetic.psf import Kernel
from avader.synthetic.sky import Columns, Indices, SyntheticSky

DRAWN_ROWS = 2**16
"""Objects of a recipe drawn at once: 100 MB."""


@dataclass
class DrawUnit:
    """Draws one range of objects after another with a model held in this process.

    psf, spectrum: as Model.sky takes them. region: digest of the region, None without one.
    digest: of the model that is wanted, where another one may have taken its place.
    """

    settings: GenerateSettings
    draw: Draw
    psf: Kernel | None = None
    spectrum: NDArray[np.float32] | None = None
    region: str | None = None
    digest: str | None = None
    sky: SyntheticSky = field(init=False)
    placing: Placing = field(init=False)

    def __post_init__(self) -> None:
        keep_freed_memory()
        model = load_model(
            self.settings.model,
            device=TORCH_DEVICE[self.settings.device],
            precision=self.settings.precision,
            tile=self.settings.tile,
        )
        check_model(model.digest, self.digest)
        self.sky = model.sky(
            self.draw,
            orientation=self.settings.orientation,
            psf=self.psf,
            spectrum=self.spectrum,
        )
        self.placing = placing_of(self.settings)
        if self.placing.digest != self.region:
            raise HaltError("wanted the region as it was when the run began, got another one")

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Draw the objects of a unit, and decode them where images are stored."""
        indices, places = self._laid_out(unit)
        if self.settings.store == "recipe":
            table = pa.concat_tables(self._recipes(indices, places))
        else:
            table = self._table({**self._with_images(self.sky.drawn(indices)), **places})
        refused = rows.reject_table([], unit.name)
        return UnitRows(rows_in=len(indices), table=table, rejects=refused)

    def _laid_out(self, unit: Unit) -> tuple[Indices, Columns]:
        """Indices of a unit's objects (B,) in the order of its rows, and where they lie (B,)."""
        indices = np.concatenate([np.arange(*span) for span in unit.inputs["ranges"]])
        pixel = named_pixel(unit.name)
        if self.placing.region is None or pixel is None:
            return indices, {}
        found = place(self.placing.region, self.settings.seed, indices, pixel)
        order = np.argsort(found.healpix_29, kind="stable")
        return indices[order], {
            name: values[order] for name, values in zip(POSITION_NAMES, found, strict=True)
        }

    def _recipes(self, indices: Indices, places: Columns) -> Iterator[pa.Table]:
        """Tables of at most DRAWN_ROWS objects."""
        for start, stop in ranges(len(indices), DRAWN_ROWS):
            drawn = self.sky.drawn(indices[start:stop])
            columns = {**drawn, "log_likelihood": self.sky.log_likelihood(drawn)}
            if not self.settings.keep_latent:
                del columns["latent"]
            here = {name: values[start:stop] for name, values in places.items()}
            yield self._table({**columns, **here})

    def _with_images(self, drawn: Columns) -> Columns:
        if not self.settings.truth:
            return {**drawn, "image": self.sky.images(drawn)}
        pixels, measures = self.sky.measured_images(drawn)
        likelihood = self.sky.log_likelihood(drawn)
        return {**drawn, "log_likelihood": likelihood, **measures, "image": pixels}

    def _table(self, columns: Columns) -> pa.Table:
        wanted = schema.synthetic_schema(
            self.sky.engine.image_shape,
            latent=self.sky.mixture.means.shape[1],
            names=columns,
            half="image" not in columns,
        )
        if "image" in columns:
            columns["image"] = columns["image"].reshape(len(columns["image"]), -1)
        return rows.table(wanted, columns)


@dataclass(frozen=True)
class EncodeUnit:
    """Makes the pixels of a unit files. encoding, quality: as encode_image takes them."""

    encoding: str
    quality: int

    def __call__(self, _: Unit, drawn: UnitRows) -> UnitRows:
        """The same rows, with files."""
        at = drawn.table.schema.get_field_index("image")
        shape = rows.image_shape(drawn.table.schema.field(at))
        files = [
            encode_image(pixels.reshape(shape), self.encoding, quality=self.quality)
            for pixels in rows.values(drawn.table.column(at))
        ]
        field = drawn.table.schema.field(at).with_type(FILE_TYPE)
        return replace(drawn, table=drawn.table.set_column(at, field, pa.array(files, FILE_TYPE)))
