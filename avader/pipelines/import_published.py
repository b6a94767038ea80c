"""`import-published`: the paper's Keras weights become a model folder."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from avader.catalogue.provenance import provenance
from avader.config import ImportPublishedSettings
from avader.errors import InputError
from avader.inference.engine import Engine
from avader.io import growth, storage
from avader.io.models import (
    CARD,
    ModelFiles,
    has_noise,
    read_model,
    read_noise,
    write_model,
    write_noise,
)
from avader.model.files import model_config, model_from_arrays, model_tensors
from avader.model.published import VARIANCE_FLOOR, Published, read_published
from avader.model.vade import VaDE
from avader.pipelines.matching import check_match, preparation
from avader.pipelines.progress import say
from avader.pipelines.training.residuals import noise_line, noise_of_packed
from avader.recipe import PUBLISHED_PREPROCESSING

PAPER = "Spindler A., Geach J. E., Smith M. J., 2021, MNRAS, 502, 985"


def run(settings: ImportPublishedSettings) -> None:
    """Write the model folder; one that holds these weights already is left as it is.

    Noise is measured where there are images for it and the folder has none. Raises InputError for
    a file that is not the published weights, for images that are not as the model's, and for a
    folder that holds another model or noise of other images.
    """
    data = storage.read_bytes(settings.weights)
    published = read_published(data)
    source = hashlib.sha256(data).hexdigest()
    there = _is_there(settings.out, source=source)
    model = model_from_arrays(
        published.state,
        network=published.network,
        components=published.components,
        variance_floor=VARIANCE_FLOOR,
    )
    # A file of another size than the published 128 px keeps the rest of the preprocessing.
    preprocessing = PUBLISHED_PREPROCESSING.model_copy(update={"size": published.network.size})
    config = model_config(model, preprocessing)
    if settings.data is not None:
        _add_noise(settings, model, config)
    if there:
        say(f"this model is there already: {storage.public_uri(settings.out)}")
        return
    digest = write_model(
        settings.out,
        config=config,
        tensors=model_tensors(model),
        card=_card(published, source=source),
    )
    say(f"wrote model {digest[:12]} to {storage.public_uri(settings.out)}")


def _is_there(uri: str, *, source: str) -> bool:
    """Whether the folder holds the model of this source; InputError where it holds another."""
    if not storage.exists(storage.join(uri, CARD)):
        return False
    found = read_model(uri).card.get("source_sha256")
    if found != source:
        raise InputError(
            f"wanted an empty folder or the model of these weights, got another model in "
            f"{storage.public_uri(uri)}; give another --out, or remove that model first"
        )
    return True


def _add_noise(settings: ImportPublishedSettings, model: VaDE, config: Mapping[str, Any]) -> None:
    """Write the noise of the images given, or find it there; catalogues may hang on what is."""
    assert settings.data is not None
    data = growth.read_whole(storage.absolute(settings.data), kind="cutouts")
    files = ModelFiles(dict(config), tensors={}, card={}, digest="")
    accepted = check_match(data, files, accepted=settings.accept_mismatch)
    if has_noise(settings.out):
        _check_noise(settings.out, data=data.digest)
        return
    spectrum, about = noise_of_packed(
        Engine(model), data, preparation(data, files), accepted=accepted
    )
    if not np.isfinite(spectrum).all():
        raise InputError(
            "--data: wanted cutouts with pixels outside of their sources, got none in "
            f"{storage.public_uri(data.uri)}; see its rejects/, or give others"
        )
    write_noise(settings.out, spectrum=spectrum, about=about)
    say(noise_line(spectrum, about))


def _check_noise(uri: str, *, data: str) -> None:
    """Raise InputError where a folder's noise is not that of the images of this digest."""
    found = read_noise(uri).about["data"]
    if found != data:
        raise InputError(
            f"--data: {storage.public_uri(uri)} holds the noise of other cutouts (wanted manifest "
            f"{data[:12]}, got {found[:12]}); give another --out"
        )
    say(f"this noise is there already: {storage.public_uri(uri)}")


def _card(published: Published, *, source: str) -> dict[str, Any]:
    changes = (
        f"theta, whose sum was {published.theta_sum:.6g}, is normalised to 1; the flatten order "
        "is changed and the two heads are joined; no other number is changed"
    )
    return provenance(kind="published weights", paper=PAPER, source_sha256=source, changes=changes)
