"""One range of objects after another: drawn, decoded, measured; then encoded as files."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avader.api import load_model
from avader.catalogue import rows, schema
from avader.config import GenerateSettings
from avader.images.encode import encode_image
from avader.io import storage
from avader.mixture.sample import Draw
from avader.pipelines.cluster import TORCH_DEVICE
from avader.pipelines.stages import UnitRows
from avader.plan import Unit
from avader.synthetic.psf import Kernel
from avader.synthetic.sky import Columns, SyntheticSky

DRAWN_ROWS = 2**16
"""Objects of a recipe drawn at once: 100 MB."""


@dataclass
class DrawUnit:
    """Draws one range of objects after another with a model held in this process.

    psf, spectrum: as Model.sky takes them.
    """

    settings: GenerateSettings
    draw: Draw
    psf: Kernel | None = None
    spectrum: NDArray[np.float32] | None = None
    sky: SyntheticSky = field(init=False)

    def __post_init__(self) -> None:
        model = load_model(
            storage.absolute(self.settings.model),
            device=TORCH_DEVICE[self.settings.device],
            precision=self.settings.precision,
            tile=self.settings.tile,
        )
        self.sky = model.sky(
            self.draw,
            orientation=self.settings.orientation,
            psf=self.psf,
            spectrum=self.spectrum,
        )

    def __call__(self, unit: Unit, _: None) -> UnitRows:
        """Draw the objects of a unit, and decode them where images are stored."""
        start, stop = unit.inputs["start"], unit.inputs["stop"]
        if self.settings.store == "recipe":
            table = pa.concat_tables(self._recipes(start, stop))
        else:
            table = self._table(self._with_images(self.sky.drawn(np.arange(start, stop))))
        return UnitRows(rows_in=stop - start, table=table, rejects=rows.reject_table([], unit.name))

    def _recipes(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Tables of at most DRAWN_ROWS objects."""
        for first in range(start, stop, DRAWN_ROWS):
            drawn = self.sky.drawn(np.arange(first, min(first + DRAWN_ROWS, stop)))
            columns = {**drawn, "log_likelihood": self.sky.log_likelihood(drawn)}
            if not self.settings.keep_latent:
                del columns["latent"]
            yield self._table(columns)

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
        field = drawn.table.schema.field(at).with_type(schema.FILE_TYPE)
        return replace(
            drawn, table=drawn.table.set_column(at, field, pa.array(files, schema.FILE_TYPE))
        )
