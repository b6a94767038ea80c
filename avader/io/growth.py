"""Folders that grow: increments, each finished for itself, and versions that list them.

    OUT/manifest.json, parts/, rejects/          the first increment
    OUT/increments/000002/manifest.json, ...     the second, with folders of its own
    OUT/versions/000002.json                     names both, and their manifests' digests
    OUT/latest.json                              which version is the newest

Parts of an increment may also lie among those of the first, as other readers want them: its
manifest then says so, and its paths are from OUT.

Manifests and versions are never written over. `latest.json` is the one object that changes, by a
conditional write, once everything that it leads to is there; a folder of one increment has none.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from avader.errors import InputError
from avader.io import conditional, storage
from avader.io.manifest import Manifest, read_manifest
from avader.io.models import parse_json

LATEST = "latest.json"


@dataclass(frozen=True)
class Increment:
    """What a run adds to a folder. root: the folder; before: what is in it already, in order."""

    root: str
    before: tuple[Manifest, ...] = ()

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return len(self.before) + 1

    @property
    def out(self) -> str:
        """Its own folder."""
        return folder(self.root, self.number)


def read_whole(uri: str, *, kind: str | None = None, version: int = 0) -> Manifest:
    """A finished folder with all its increments as one: parts in order of increment.

    Paths are below the folder; settings are the first increment's, of a synthetic sky the last
    one's; facts are the first one's too, but for rooted ones, whose last one has the facts of all;
    the digest is the version's. version: the newest one for 0.
    Raises InputError as read_increments does.
    """
    return as_one(uri, read_increments(uri, kind=kind, version=version))


def as_one(uri: str, found: Sequence[Manifest]) -> Manifest:
    """A version's increments as one, as read_whole gives them."""
    if len(found) == 1:
        return found[0]
    parts = [part for number, held in enumerate(found, 1) for part in parts_below(held, number)]
    totals = {name: sum(held.totals[name] for held in found) for name in found[0].totals}
    digest = hashlib.sha256(storage.read_bytes(_version(uri, len(found)))).hexdigest()
    facts = found[-1].facts if found[-1].rooted else found[0].facts
    # A sky's last increment says what all of its objects are, and each where its own lie.
    settings = found[-1 if found[0].kind == "synthetic" else 0].settings
    if "shares" in facts:
        facts = {**facts, "shares": [share for held in found for share in held.facts["shares"]]}
    return replace(
        found[0], parts=parts, totals=totals, digest=digest, facts=facts, settings=settings
    )


def parts_below(held: Manifest, number: int) -> list[dict[str, Any]]:
    """The parts of an increment, their paths from the folder's own root."""
    if held.rooted:
        return held.parts
    return [
        {**part, **{name: _below(number, part[name]) for name in ("path", "rejects_path")}}
        for part in held.parts
    ]


def read_increments(uri: str, *, kind: str | None = None, version: int = 0) -> list[Manifest]:
    """The manifests of a version's increments, the first one first; the newest version's for 0.

    Raises InputError as read_manifest does, where there is no such version, and where a manifest
    is not the one that was listed.
    """
    newest = latest(uri)
    number = version or newest
    if number > newest:
        raise InputError(
            f"wanted {number} increments in {storage.public_uri(uri)}, got {newest}; add what is "
            "missing"
        )
    if number == 1:
        return [read_manifest(uri, kind=kind)]
    where = _version(uri, number)
    listed = parse_json(storage.read_bytes(where), where)["increments"]
    found = [read_manifest(folder(uri, at), kind=kind) for at in range(1, number + 1)]
    for held, entry in zip(found, listed, strict=True):
        if held.digest != entry["sha256"]:
            raise InputError(
                f"wanted {storage.public_uri(held.uri)} as version {number} lists it, got another "
                "manifest; bring it back, or make the folder again"
            )
    return found


def data_of(held: Manifest) -> list[str]:
    """Digests of the cutouts that an increment was made from: of one, or what compact joined."""
    made_from = held.settings["data"]
    return [made_from] if isinstance(made_from, str) else list(made_from)


def latest(uri: str) -> int:
    """Number of the newest version of a folder, which is that of its increments."""
    seen = conditional.read(storage.join(uri, LATEST))
    return 1 if seen is None else _number(seen.data, uri)


def folder(uri: str, number: int) -> str:
    """URI of an increment, from 1."""
    return uri if number == 1 else storage.join(uri, "increments", f"{number:06d}")


def publish(uri: str, number: int) -> None:
    """Make a finished increment part of the folder: its version is written, then `latest.json`.

    May be repeated; versions that were left out before, by a run that was stopped, are written too.
    Raises InputError where the increments before it are other ones by now.
    """
    if number == 1:
        return
    found = [read_manifest(folder(uri, at)) for at in range(1, number + 1)]
    for at in range(2, number + 1):
        _write_version(uri, found[:at])
    _advance(uri, number)


def _write_version(uri: str, found: Sequence[Manifest]) -> None:
    """Write a version, or find it as it would be written."""
    number = len(found)
    content = {
        "format": "avader-version",
        "version": 1,
        "number": number,
        "increments": [
            {"path": _below(at, "manifest.json"), "sha256": held.digest, **held.totals}
            for at, held in enumerate(found, 1)
        ],
    }
    data, where = _json_bytes(content), _version(uri, number)
    if conditional.create(where, data) is None and storage.read_bytes(where) != data:
        raise InputError(
            f"{storage.public_uri(where)} lists other increments than those that are there; bring "
            "them back, or make the folder again"
        )


def _advance(uri: str, number: int) -> None:
    """Let `latest.json` lead to a version, unless it leads to a later one."""
    where, data = storage.join(uri, LATEST), _json_bytes({"number": number})
    while True:
        seen = conditional.read(where)
        if seen is None:
            made = conditional.create(where, data)
        elif _number(seen.data, uri) >= number:
            return
        else:
            made = conditional.replace(where, data, seen)
        if made is not None:
            return


def _number(data: bytes, uri: str) -> int:
    return int(parse_json(data, storage.join(uri, LATEST))["number"])


def _version(uri: str, number: int) -> str:
    return storage.join(uri, "versions", f"{number:06d}.json")


def _below(number: int, path: str) -> str:
    """A path within an increment, from the folder's own root."""
    return path if number == 1 else f"increments/{number:06d}/{path}"


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
