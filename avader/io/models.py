"""Model folders: config.json, model.safetensors, card.json. No pickle is ever loaded.

Beside them there may be noise.safetensors, the survey's noise as measured with this model. It is no
part of the model's identity: a catalogue that uses it records its own digest too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from avader.errors import InputError
from avader.io import storage

FORMAT = "avader-model"
VERSION = 1
CARD = "card.json"
"""The last file of a model's folder to be written."""
FILES = ("config.json", "model.safetensors", CARD)
NOISE = "noise.safetensors"


@dataclass(frozen=True)
class ModelFiles:
    """What a model folder holds.

    config: sizes, mixture, preprocessing (see README). tensors: the weights by name.
    card: provenance. digest: SHA-256 over config and weights, the model's identity.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    card: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class NoiseFile:
    """The survey's noise in a model folder.

    spectrum: (C, H, W // 2 + 1) float32, see synthetic/noise.py. about: what it was measured on.
    digest: SHA-256 of the file.
    """

    spectrum: NDArray[np.float32]
    about: dict[str, Any]
    digest: str


def write_model(
    uri: str,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    card: Mapping[str, Any],
) -> str:
    """Write a model folder, its card last, and return the model's digest."""
    config_bytes = _json_bytes({"format": FORMAT, "version": VERSION, **config})
    weights = save({name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())})
    digest = _digest(config_bytes, weights)
    storage.write_bytes(storage.join(uri, "config.json"), config_bytes)
    storage.write_bytes(storage.join(uri, "model.safetensors"), weights)
    storage.write_bytes(storage.join(uri, CARD), _json_bytes({**card, "digest": digest}))
    return digest


def read_model(uri: str) -> ModelFiles:
    """Read a model folder.

    Raises InputError where a file is missing, is not what it should be, or where the weights
    are not the ones that the card was written for.
    """
    missing = [name for name in FILES if not storage.exists(storage.join(uri, name))]
    if missing:
        raise InputError(
            f"wanted a model folder with {', '.join(FILES)}, got {storage.public_uri(uri)} without "
            f"{', '.join(missing)}; give a folder written by `avader train` or import-published"
        )
    config_bytes, weights, card_bytes = (
        storage.read_bytes(storage.join(uri, name)) for name in FILES
    )
    config = parse_json(config_bytes, storage.join(uri, "config.json"))
    card = parse_json(card_bytes, storage.join(uri, CARD))
    if (config.get("format"), config.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"wanted {FORMAT} version {VERSION}, got {config.get('format')} version "
            f"{config.get('version')} in {storage.public_uri(uri)}; use the avader that wrote it"
        )
    digest = _digest(config_bytes, weights)
    if card.get("digest") != digest:
        raise InputError(
            f"the model in {storage.public_uri(uri)} is not the one its card names "
            f"(wanted {card.get('digest')}, got {digest}); copy or write the folder again"
        )
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise InputError(f"{storage.public_uri(uri)}/model.safetensors: {error}") from error
    return ModelFiles(config, tensors, card, digest)


def write_noise(uri: str, *, spectrum: np.ndarray, about: Mapping[str, Any]) -> str:
    """Write the noise of a model folder, before the model's card, and return the file's digest.

    spectrum: (C, H, W // 2 + 1), kept as float32; about: what it was measured on, JSON values.
    """
    # One text, since safetensors writes several in any order.
    told = {"about": json.dumps(about, sort_keys=True)}
    data = save({"spectrum": np.ascontiguousarray(spectrum, np.float32)}, metadata=told)
    storage.write_bytes(storage.join(uri, NOISE), data)
    return hashlib.sha256(data).hexdigest()


def has_noise(uri: str) -> bool:
    """Whether a model folder holds the survey's noise."""
    return storage.exists(storage.join(uri, NOISE))


def read_noise(uri: str) -> NoiseFile:
    """The noise in a model folder. Raises InputError where it holds none, or another file."""
    public = storage.public_uri(uri)
    if not has_noise(uri):
        raise InputError(
            f"wanted a model folder with {NOISE}, got {public} without: this model holds no noise; "
            "train it again, or give import-published --data"
        )
    data = storage.read_bytes(storage.join(uri, NOISE))
    try:
        spectrum = load(data)["spectrum"]
        # The format: eight bytes of length, then a header in JSON, checked by `load`.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["about"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"wanted a noise spectrum in {public}/{NOISE}, got another file ({error}); copy or "
            "write the folder again"
        ) from error
    return NoiseFile(spectrum, about, hashlib.sha256(data).hexdigest())


def beside(uri: str, model: ModelFiles) -> str:
    """A URI in which {model} is the first 12 digits of a model's digest."""
    return uri.replace("{model}", model.digest[:12])


def parse_json(data: bytes, uri: str) -> dict[str, Any]:
    """The JSON object in these bytes, or an InputError that names where they came from."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InputError(f"wanted JSON in {storage.public_uri(uri)}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"wanted a JSON object in {storage.public_uri(uri)}")
    return value


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in contents)).hexdigest()
