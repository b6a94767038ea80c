"""report: a self-contained page about a classified catalogue and its model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avader.api import Model, load_model
from avader.catalogue.columns import FLAG_MEANINGS
from avader.catalogue.provenance import CITATION
from avader.config import ReportSettings
from avader.errors import InputError
from avader.images.checks import REASON_MEANINGS
from avader.io import shards, storage
from avader.io.growth import as_one, data_of, read_increments
from avader.io.manifest import DOERS, Manifest
from avader.io.models import ModelFiles, read_model
from avader.mixture.sample import mixture_arrays
from avader.model.files import build_model, parse_config
from avader.pipelines.frames import check_frame, in_frame
from avader.pipelines.matching import preparation
from avader.pipelines.progress import Progress, say
from avader.plan import tile_on
from avader.report.compose import Material, compose
from avader.report.history import Value, from_csv
from avader.report.page import Fact, RejectReason, render
from avader.report.summary import MEMBERS, Chosen, Rows, Summary
from avader.survey.stored import ReadPixels, pixels_of

COLUMNS = (
    "object_id",
    "component",
    "probability",
    "latent_mean",
    "log_likelihood",
    "reconstruction_error",
    "flags",
)
_LONGEST = 300  # characters of a value in the page's tables


def run(settings: ReportSettings) -> None:
    """Write index.html. Raises InputError where model, catalogue and data do not match."""
    out = storage.absolute(storage.join(settings.out, "index.html"))
    storage.check_writable(out)
    made = read_increments(storage.absolute(settings.catalogue), kind="classified")
    catalogue = as_one(storage.absolute(settings.catalogue), made)
    files = read_model(storage.absolute(settings.model))
    _check_model(catalogue, files)
    packed = _open_data(settings, catalogue, made)
    data = as_one(packed[0].uri, packed)
    prepared = preparation(data, files)
    check_frame(settings.frame, prepared, data)
    say(f"reporting on {catalogue.totals['rows']:,} galaxies")
    material = _gather(settings, catalogue, data, files)
    page = compose(
        in_frame(material, settings.frame, catalogue=catalogue, prepared=prepared),
        subtitle=f"Catalogue {storage.public_uri(settings.catalogue)}, model {files.digest[:12]}",
        flag_meanings={
            flag.name.lower(): (flag.value, meaning)
            for flag, meaning in FLAG_MEANINGS.items()
            if flag.name
        },
        provenance=_provenance(settings, made, packed, files),
        citation=CITATION,
    )
    storage.write_bytes(out, render(page).encode())
    say(f"wrote {storage.public_uri(storage.join(settings.out, 'index.html'))}")


def _check_model(catalogue: Manifest, files: ModelFiles) -> None:
    wanted = catalogue.settings["model"]
    if files.digest != wanted:
        raise InputError(
            f"wanted the model that {storage.public_uri(catalogue.uri)} was made with, {wanted}, "
            f"got {files.digest}; give the --model of its classify command"
        )


def _open_data(
    settings: ReportSettings, catalogue: Manifest, increments: Sequence[Manifest]
) -> list[Manifest]:
    """The packed cutouts that the catalogue, of these increments, was made from: theirs."""
    uri = settings.data or catalogue.settings["data_uri"]
    made = [digest for one in increments for digest in data_of(one)]
    try:
        found = read_increments(storage.absolute(uri), kind="cutouts", version=len(made))
    except InputError as error:
        if settings.data:
            raise
        raise InputError(
            f"{error}. The catalogue names that folder as its cutouts; say with --data where they "
            "are now"
        ) from error
    for wanted, data in zip(made, found, strict=True):
        if data.digest != wanted:
            raise InputError(
                f"wanted the cutouts that the catalogue was made from, {wanted}, got {data.digest} "
                f"in {storage.public_uri(data.uri)}; give the --data of its classify command"
            )
    return found


def _gather(
    settings: ReportSettings, catalogue: Manifest, data: Manifest, files: ModelFiles
) -> Material:
    summary = summarise(catalogue)
    chosen = [*summary.examples, *(one for members in summary.members for one in members)]
    mixture = mixture_arrays(build_model(parse_config(files.config), files.tensors).mixture())
    model = load_model(
        storage.absolute(settings.model),
        precision=catalogue.settings["precision"],
        tile=tile_on("cpu", catalogue.settings),
    )
    latent = mixture.means.shape[1]
    latents = np.array([one.latent for one in summary.examples], np.float32).reshape(-1, latent)
    images = read_images(data, chosen, _reader(data, files))
    reconstructions = model.decode(latents)
    return Material(
        summary=summary,
        images=images,
        reconstructions=reconstructions,
        errors=_errors([images[one.row] for one in summary.examples], reconstructions),
        samples=_samples(model, len(mixture.weights)),
        weights=mixture.weights,
        means=mixture.means,
        rejects=[
            *count_rejects(data, stage="packing"),
            *count_rejects(catalogue, stage="classification"),
        ],
        rows_in=data.totals["rows_in"],
        history=read_history(storage.absolute(settings.model)),
    )


def read_history(model: str) -> list[dict[str, Value]]:
    """The history of a model's training; empty where its folder has none, as for imported ones."""
    uri = storage.join(model, "training", "metrics.csv")
    if not storage.exists(uri):
        return []
    try:
        return from_csv(storage.read_text(uri))
    except ValueError as error:
        raise InputError(
            f"wanted the table of a training in {storage.public_uri(uri)}: {error}; "
            "copy it again from where the model was trained, or remove it"
        ) from error


def _errors(images: Iterable[np.ndarray], reconstructions: np.ndarray) -> np.ndarray:
    """(n,) mean squared error per pixel, in float64."""
    pairs = zip(images, reconstructions, strict=True)
    return np.array([np.square(image.astype(np.float64) - other).mean() for image, other in pairs])


def summarise(catalogue: Manifest) -> Summary:
    """The catalogue's numbers, gathered part by part."""
    summary = Summary(
        rows=catalogue.totals["rows"],
        components=catalogue.facts["components"],
        latent=catalogue.facts["latent"],
    )
    progress = Progress("read", summary.rows, noun="rows")
    tables = shards.read_parts(catalogue.uri, catalogue.paths, COLUMNS)
    for path, table in zip(catalogue.paths, tables, strict=True):
        summary.add(_rows(table, part=path))
        progress.add(table.num_rows)
    return summary


def _rows(table: pa.Table, *, part: str) -> Rows:
    def floats(name: str) -> np.ndarray:
        values: np.ndarray = table[name].to_numpy().astype(np.float64)
        return values  # nulls are NaN

    return Rows(
        part=part,
        object_id=table["object_id"].to_numpy(),
        component=table["component"].to_numpy(),
        probability=_vectors(table["probability"]),
        latent=_vectors(table["latent_mean"]),
        log_likelihood=floats("log_likelihood"),
        reconstruction_error=floats("reconstruction_error"),
        flags=table["flags"].to_numpy(),
    )


def _vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed_size_list column as (N, L)."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    values = np.concatenate([np.zeros(0, np.float32), *chunks])
    return values.reshape(-1, column.type.list_size)


def _reader(data: Manifest, model: ModelFiles) -> ReadPixels:
    """What gives the pixels that the model saw."""
    network = model.config["network"]
    shape = network["bands"], network["size"], network["size"]
    return partial(pixels_of, preprocessing=preparation(data, model), shape=shape)


def read_images(
    data: Manifest, chosen: Sequence[Chosen], read: ReadPixels
) -> dict[int, np.ndarray]:
    """Pixels (C, H, W), float32 in [0, 1], of chosen rows by their number; from their shards.

    read: of a column of images, the pixels.
    """
    by_part: dict[str, set[str]] = {}
    for one in chosen:
        by_part.setdefault(one.part, set()).add(one.object_id)
    found: dict[str, np.ndarray] = {}
    for part, names in sorted(by_part.items()):
        if part in data.paths:
            found |= _read_shard(storage.join(data.uri, part), names, read)
    # A compacted catalogue has other rows in a part than its cutouts have in the part of that name:
    # all of theirs are gone through by id.
    for part in data.paths:
        if moved := {one.object_id for one in chosen} - found.keys():
            found |= _read_shard(storage.join(data.uri, part), moved, read)
    if missing := {one.object_id for one in chosen} - found.keys():
        raise InputError(
            f"wanted the image of {min(missing)} in {storage.public_uri(data.uri)}, got none; give "
            "the --data that the catalogue was made from"
        )
    return {one.row: found[one.object_id] for one in chosen}


def _read_shard(uri: str, wanted: Iterable[str], read: ReadPixels) -> dict[str, np.ndarray]:
    """Images of the ids wanted, by id; only row groups that hold one are decoded."""
    wanted = set(wanted)
    found: dict[str, np.ndarray] = {}
    with storage.open_input(uri) as file:
        shard = pq.ParquetFile(file)
        for group in range(shard.num_row_groups):
            ids = shard.read_row_group(group, ["object_id"], use_threads=False)[
                "object_id"
            ].to_pylist()
            hits = [(row, name) for row, name in enumerate(ids) if name in wanted]
            if hits:
                table = shard.read_row_group(group, ["image"], use_threads=False)
                pixels = read(table["image"].take(pa.array([row for row, _ in hits])))
                found |= {
                    name: _unit_scale(image) for image, (_, name) in zip(pixels, hits, strict=True)
                }
    return found


def _unit_scale(pixels: np.ndarray) -> np.ndarray:
    """Stored pixels as float32 in [0, 1]."""
    scale = 255 if pixels.dtype == np.uint8 else 1
    return pixels.astype(np.float32) / np.float32(scale)


def _samples(model: Model, components: int) -> np.ndarray:
    """Images (K, 8, C, H, W) drawn from every component alone."""
    # Other objects for other components: the same normals would give them the same quirks.
    drawn = [
        model.sample(MEMBERS, 0, start=MEMBERS * k, components=[k])[0] for k in range(components)
    ]
    images = model.decode(np.concatenate(drawn))
    return images.reshape(components, MEMBERS, *images.shape[1:])


def count_rejects(folder: Manifest, *, stage: str) -> list[RejectReason]:
    """Rejects of a folder by reason, the most frequent first, with their first example."""
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    paths = [part["rejects_path"] for part in folder.parts if part["rejects"]]
    for table in shards.read_parts(folder.uri, paths, ["object_id", "reason", "detail"]):
        for row in table.to_pylist():
            reason = row["reason"]
            counts[reason] = counts.get(reason, 0) + 1
            examples.setdefault(reason, f"{row['object_id'] or '(no id)'}: {row['detail']}")
    meanings = {str(reason): meaning for reason, meaning in REASON_MEANINGS.items()}
    return [
        RejectReason(stage, reason, meanings.get(reason, ""), counts[reason], examples[reason])
        for reason in sorted(counts, key=lambda name: (-counts[name], name))
    ]


def _provenance(
    settings: ReportSettings,
    made: Sequence[Manifest],
    packed: Sequence[Manifest],
    files: ModelFiles,
) -> dict[str, list[Fact]]:
    """What the page was made from, as tables; of each setting that differs by increment all values.

    made, packed: increments of the catalogue, and of its cutouts.
    """
    catalogue = as_one(made[0].uri, made)
    facts = {
        "Catalogue": {
            "uri": storage.public_uri(storage.absolute(settings.catalogue)),
            "manifest": catalogue.digest,
            "plan": catalogue.fingerprint,
            **_without(_joined([one.settings for one in made]), *DOERS),
            "backend": catalogue.provenance.get("backend"),
            "preprocessing_accepted": catalogue.provenance.get("preprocessing_accepted"),
        },
        "Cutouts": {
            "uri": storage.public_uri(packed[0].uri),
            **_without(_joined([one.settings for one in packed]), *DOERS, "columns"),
        },
        "Model": {
            "uri": storage.public_uri(storage.absolute(settings.model)),
            "digest": files.digest,
            **_without(files.config, "preprocessing", "format", "version"),
            **_without(files.card, "digest", "citation", "versions"),
        },
        "Versions": _joined([one.provenance.get("versions", {}) for one in made]),
    }
    return {
        title: [Fact(name, value) for name, value in _flat(content)]
        for title, content in facts.items()
    }


def _joined(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several mappings as one: a value that is the same in all, else the list of those that are."""
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in several for name in each):
        values: list[Any] = []
        for value in (each.get(name) for each in several):
            if value not in values:
                values.append(value)
        joined[name] = values[0] if len(values) == 1 else values
    return joined


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text); empty ones are left out, long ones cut."""
    flat: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            text = value if isinstance(value, str) else json.dumps(value)
            flat.append((prefix + name, text if len(text) <= _LONGEST else text[:_LONGEST] + " …"))
    return flat
