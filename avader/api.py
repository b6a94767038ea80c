"""avader in Python: a trained model on numpy arrays, and a catalogue as tables.

    model = avader.load_model("models/published")
    mean, logvar = model.encode(images)
    g = model.posterior(mean)
    galaxies = avader.open_catalogue("s3://survey/catalogue").to_pandas()

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from avader.catalogue import rows
from avader.errors import InputError
from avader.inference.checks import check_images, check_latents
from avader.inference.engine import Doubles, Engine, Floats, Images, Latents, Precision
from avader.io import growth, models, shards, storage
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles
from avader.mixture.sample import Draw, mixture_arrays, sample
from avader.model.files import build_model, parse_config
from avader.survey.stored import pixel_reader, stored_as_bytes
from avader.synthetic.sky import SyntheticSky, check_layout, draw_of

if TYPE_CHECKING:
    import pandas as pd


class Model:
    """A trained model.

    config: what config.json holds (network, mixture, preprocessing, low_likelihood). card:
    provenance. digest: the model's identity. Every method raises InputError for arrays that the
    model cannot take.
    """

    def __init__(self, files: ModelFiles, engine: Engine) -> None:
        self.config = files.config
        self.card = files.card
        self.digest = files.digest
        self._engine = engine
        self._network = engine.network
        self._mixture = mixture_arrays(engine.mixture)

    def encode(self, images: Images) -> tuple[Floats, Floats]:
        """Images (B, C, H, W), uint8 or float32 in [0, 1] -> mean and log variance (B, D).

        float16 in [0, 1] is taken too, as packed cutouts may hold it.
        """
        network = self._network
        check_images(images, shape=(network.bands, network.size, network.size))
        return self._engine.encode(images)

    def posterior(self, z: Latents) -> Doubles:
        """Latents (B, D) -> probabilities of the components (B, K), exact, in float64.

        A z that is not finite gives NaN.
        """
        return self._engine.posterior(self._latents(z))

    def integrated_posterior(self, mean: Latents, logvar: Latents) -> Doubles:
        """Probabilities of the components (B, K) of the encoder's whole posterior, in float64.

        mean, logvar: (B, D), as encode gives them. The mixture is integrated over N(mean,
        diag exp(logvar)), where posterior takes the mean alone: an uncertain encoding gives broader
        probabilities. What is not finite gives NaN.
        """
        for name, values in (("mean", mean), ("logvar", logvar)):
            check_latents(values, latent=self._network.latent, name=name)
        if len(mean) != len(logvar):
            raise InputError(
                f"wanted as many rows of mean as of logvar, got {len(mean)} and {len(logvar)}"
            )
        return self._engine.integrated_posterior(mean, logvar)

    def log_likelihood(self, z: Latents) -> Doubles:
        """Latents (B, D) -> log p(z) under the mixture (B,), nats, in float64."""
        return self._engine.log_likelihood(self._latents(z))

    def decode(self, z: Latents) -> Floats:
        """Latents (B, D) -> images (B, C, H, W), at least 0; a few pixels exceed 1."""
        return self._engine.decode(self._latents(z))

    def decode_pixels(self, z: Latents) -> NDArray[np.uint8]:
        """Latents (B, D) -> images (B, C, H, W) as they are stored: round(255 x), clipped first."""
        return self._engine.decode_pixels(self._latents(z))

    def sample(
        self,
        count: int,
        seed: int,
        start: int = 0,
        components: Sequence[int] | None = None,
        variance_scale: float = 1.0,
    ) -> tuple[Floats, NDArray[np.int16]]:
        """Synthetic objects start .. start + count - 1 of a seed: z (B, D) and component (B,).

        Object i is the same whatever the count and start. components: draw from these alone,
        weights renormalised. variance_scale: factor on the components' variances.
        """
        return sample(
            self._mixture,
            count=count,
            seed=seed,
            start=start,
            components=components,
            variance_scale=variance_scale,
        )

    def sky(self, draw: Draw, *, orientation: str = "canonical") -> SyntheticSky:
        """The synthetic sky of this model with these draws."""
        draw.check(self.config["mixture"]["components"])
        return SyntheticSky(self._engine, self._mixture, draw, orientation)

    def _latents(self, z: Latents) -> Latents:
        check_latents(z, latent=self._network.latent)
        return z


def load_model(
    uri: str, device: str = "cpu", precision: Precision = "float32", *, tile: int = 16
) -> Model:
    """The model in a folder: a local path or a URI such as s3://bucket/folder.

    device: torch's name, such as cpu or cuda. precision: float32, or bfloat16 (faster; changes
    probabilities slightly). tile: images computed at once. Raises InputError for a folder that
    is no whole model and for a device that is not there.
    """
    files = models.read_model(uri)
    model = build_model(parse_config(files.config), files.tensors)
    return Model(files, Engine(model, tile=tile, device=device, precision=precision))


class Catalogue:
    """A finished folder: packed cutouts, a classified or a synthetic catalogue.

    manifest: what the folder holds and where it comes from. Only parts that the manifest lists
    are read.
    """

    def __init__(self, held: Manifest) -> None:
        self.manifest = held

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
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images. Raises InputError where the catalogue holds none."""
        if "image" not in self.dataset.schema.names:
            raise InputError(f"wanted a catalogue with images, got one of {self.manifest.kind}")
        if stored_as_bytes(self.dataset.schema.field("image").type):
            return tuple(self.manifest.settings["shape"])
        return rows.image_shape(self.dataset.schema.field("image"))

    def images(self, row_numbers: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Images (B, C, H, W) of these rows, counted from 0 in catalogue order.

        Pixels as stored; of a data set that holds files, as the preprocessing that it was packed
        with makes them.
        """
        wanted = check_rows(row_numbers, self.manifest.totals["rows"])
        # Part by part, so that only parts that are needed are read.
        starts = np.cumsum([0, *(part["rows"] for part in self.manifest.parts)])
        owners = np.searchsorted(starts, wanted, side="right") - 1
        images = self._pixels(self.dataset.schema.empty_table()["image"])
        picked = np.empty((len(wanted), *self.image_shape), images.dtype)
        for owner in np.unique(owners):
            at = owners == owner
            part = shards.read_part(self.manifest.uri, self.manifest.paths[owner], ["image"])
            picked[at] = self._pixels(part["image"].take(pa.array(wanted[at] - starts[owner])))
        return picked

    def _pixels(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """Pixels (B, C, H, W) of a column of images."""
        if stored_as_bytes(column.type):
            return pixel_reader(self.manifest.settings)(column)
        return rows.flat_values(column).reshape(-1, *self.image_shape)


def open_catalogue(uri: str) -> Catalogue:
    """The finished folder at a local path or a URI such as s3://bucket/folder.

    Raises InputError where the folder is not finished.
    """
    return Catalogue(growth.read_whole(storage.absolute(uri)))


def regenerate(
    catalogue: "str | Catalogue",
    indices: Sequence[int] | NDArray[np.integer[Any]],
    *,
    model: str | None = None,
    device: str = "cpu",
) -> dict[str, NDArray[Any]]:
    """Objects of a synthetic catalogue made again, from its manifest and its model alone.

    catalogue: opened, or its URI. indices: of B objects, in any order. model: URI of its model's
    folder, where that has moved. device: to decode on, torch's name.

    Returns index (B,) int64, component (B,) int16, latent (B, D) float32, image (B, C, H, W) uint8,
    and where objects lie at random on the sky orientation_angle and orientation_flips (B,). Bit
    for bit what the catalogue holds on the same kind of machine and device and the same versions of
    packages; elsewhere latents may differ in their last bit, and pixels slightly. Raises InputError
    for indices beyond the catalogue, another model, and a catalogue that is not synthetic.
    """
    opened = open_catalogue(catalogue) if isinstance(catalogue, str) else catalogue
    held = opened.manifest
    if held.kind != "synthetic":
        raise InputError(
            f"wanted a synthetic catalogue, got {storage.public_uri(held.uri)} of {held.kind}"
        )
    wanted = check_rows(indices, held.totals["rows"])
    settings = held.settings
    made = load_model(
        model or settings["model_uri"],
        device,
        settings["precision"],
        tile=settings["tile"],
    )
    if made.digest != settings["model"]:
        raise InputError(
            f"wanted the model of {storage.public_uri(held.uri)}, {settings['model']}, got "
            f"{made.digest} in {storage.public_uri(model or settings['model_uri'])}; give model="
        )
    check_layout(settings)
    sky = made.sky(draw_of(settings), orientation=settings.get("orientation", "canonical"))
    drawn = sky.drawn(wanted)
    return {**drawn, "image": sky.images(drawn)}


def check_rows(numbers: Sequence[int] | NDArray[np.integer[Any]], total: int) -> NDArray[np.int64]:
    """Row numbers as int64. Raises InputError for what is no integer from 0 to total - 1."""
    given = np.asarray(numbers)
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"wanted integers, got {given.dtype}")
    wanted = given.astype(np.int64).reshape(-1)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < total):
        raise InputError(f"wanted rows from 0 to {total - 1}, got {wanted.min()}..{wanted.max()}")
    return wanted
