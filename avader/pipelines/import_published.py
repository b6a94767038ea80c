"""`import-published`: the paper's Keras weights become a model folder."""

import hashlib

from avader.catalogue.provenance import provenance
from avader.config import ImportPublishedSettings
from avader.errors import InputError
from avader.io import storage
from avader.io.models import read_model, write_model
from avader.model.files import model_config, model_from_arrays, model_tensors
from avader.model.published import VARIANCE_FLOOR, Published, read_published
from avader.pipelines.progress import say
from avader.recipe import PUBLISHED_PREPROCESSING

PAPER = "Spindler A., Geach J. E., Smith M. J., 2021, MNRAS, 502, 985"


def run(settings: ImportPublishedSettings) -> None:
    """Write the model folder; one that holds these weights already is left as it is.

    Raises InputError for a file that is not the published weights, and for a folder that holds
    another model.
    """
    data = storage.read_bytes(settings.weights)
    published = read_published(data)
    source = hashlib.sha256(data).hexdigest()
    if _is_there(settings.out, source=source):
        say(f"this model is there already: {storage.public_uri(settings.out)}")
        return
    digest = _write(settings.out, published, source=source)
    say(f"wrote model {digest[:12]} to {storage.public_uri(settings.out)}")


def _is_there(uri: str, *, source: str) -> bool:
    """Whether the folder holds the model of this source; InputError where it holds another."""
    if not storage.exists(storage.join(uri, "card.json")):
        return False
    found = read_model(uri).card.get("source_sha256")
    if found != source:
        raise InputError(
            f"wanted an empty folder or the model of these weights, got another model in "
            f"{storage.public_uri(uri)}; give another --out, or remove that model first"
        )
    return True


def _write(uri: str, published: Published, *, source: str) -> str:
    model = model_from_arrays(
        published.state,
        network=published.network,
        components=published.components,
        variance_floor=VARIANCE_FLOOR,
    )
    # A file of another size than the published 128 px keeps the rest of the preprocessing.
    preprocessing = PUBLISHED_PREPROCESSING.model_copy(update={"size": published.network.size})
    changes = (
        f"theta, whose sum was {published.theta_sum:.6g}, is normalised to 1; the flatten order "
        "is changed and the two heads are joined; no other number is changed"
    )
    return write_model(
        uri,
        config=model_config(model, preprocessing),
        tensors=model_tensors(model),
        card=provenance(
            kind="published weights", paper=PAPER, source_sha256=source, changes=changes
        ),
    )
