"""plan.json, written first, says what a folder is for; manifest.json, written last, what it is.

Readers trust nothing but the manifest.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from avader.errors import InputError
from avader.io import conditional, storage
from avader.io.models import CARD, parse_json
from avader.io.shards import receipt_json
from avader.plan import Plan, Receipt, is_address

VERSION = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
DOERS = ("versions", "writer")
"""Settings of a plan that say who does the work, not what it is."""


@dataclass(frozen=True)
class Manifest:
    """A finished folder. settings: of its plan; parts: as listed; digest: of the file.

    rooted: whether paths are not below the folder, but below the one whose increment it is.
    """

    uri: str
    kind: str
    fingerprint: str
    settings: dict[str, Any]
    totals: dict[str, int]
    parts: list[dict[str, Any]]
    facts: dict[str, Any]
    provenance: dict[str, Any]
    digest: str
    rooted: bool = False

    @property
    def paths(self) -> list[str]:
        """Paths of the parts, below the folder unless it is rooted."""
        return [part["path"] for part in self.parts]

    @property
    def rows_of(self) -> str:
        """The kind of folder whose columns its rows have; a collection's say what it is made of."""
        return str(self.settings.get("catalogue_kind", self.kind))

    @property
    def holds_files(self) -> bool:
        """Whether images of cutouts are stored as the files that came, not as pixels."""
        return bool(self.settings.get("store", "pixels") == "bytes")


def open_plan(out: str, plan: Plan) -> None:
    """Claim an output folder for a plan, or find it claimed by the same one.

    Raises InputError where the folder holds another plan, with what differs.
    """
    uri = storage.join(out, PLAN)
    # Another run may claim it between the look and the writing: what it wrote is not written over.
    while not check_plan(out, plan):
        conditional.create(uri, _plan_bytes(plan))


def check_plan(out: str, plan: Plan) -> bool:
    """Whether an output folder is claimed by this plan; False where it is free.

    A finished folder is also held by the plan of the same work by other versions of packages: it
    stays as it is, and grows. Raises InputError where the folder holds another plan, with what
    differs.
    """
    uri = storage.join(out, PLAN)
    if not storage.exists(uri):
        parts = next((plan.place(unit.name).partition("/")[0] for unit in plan.units), "parts")
        names = (MANIFEST, CARD, parts)
        strangers = [name for name in names if storage.exists(storage.join(out, name))]
        if strangers:
            raise InputError(
                f"wanted an empty output folder, got {storage.public_uri(out)} with "
                f"{', '.join(strangers)} of unknown origin; choose another --out"
            )
        return False
    held = parse_json(storage.read_bytes(uri), uri)
    known = held.get("fingerprint") in (plan.fingerprint, plan.old_fingerprint)
    if not known and not (_is_same_work(held, plan) and is_finished(out)):
        raise InputError(
            f"{storage.public_uri(out)} holds another plan: {_difference(held, plan)}; repeat the "
            "first command to go on with it, or choose another --out"
        )
    return True


def is_finished(out: str) -> bool:
    """Whether a folder's manifest has been written."""
    return storage.exists(storage.join(out, MANIFEST))


def write_manifest(
    out: str,
    plan: Plan,
    receipts: Sequence[Receipt],
    *,
    provenance: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write manifest.json, the last object of a folder; receipts in plan order, one per unit.

    facts: what a reader of this kind of folder needs (a tensor's shape, K, D).
    """
    assert [receipt.unit for receipt in receipts] == [unit.name for unit in plan.units]
    totals = {
        name: sum(getattr(receipt, name) for receipt in receipts)
        for name in ("rows_in", "rows", "rejects")
    }
    content = {
        "format": f"avader-{plan.kind}",
        "version": VERSION,
        "kind": plan.kind,
        "plan": plan.fingerprint,
        "settings": plan.settings,
        "totals": totals,
        "facts": dict(facts or {}),
        "parts": listed(out, plan, receipts),
        "provenance": dict(provenance),
    }
    if plan.root is not None:
        content["rooted"] = True
    storage.write_bytes(storage.join(out, MANIFEST), _json_bytes(content))
    return read_manifest(out)


def listed(out: str, plan: Plan, receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    """Parts as the manifest lists them: paths are below the output folder, or the plan's root."""
    parts = [receipt_json(receipt, plan.place) for receipt in receipts]
    if plan.root is None:
        return parts
    below = out.removeprefix(plan.root).strip("/")
    return [{**part, "rejects_path": f"{below}/{part['rejects_path']}"} for part in parts]


def read_manifest(uri: str, *, kind: str | None = None) -> Manifest:
    """The manifest of a finished folder, of the kind wanted (any by default).

    Raises InputError where there is none, where it is of another kind, or not readable.
    """
    where = storage.join(uri, MANIFEST)
    if not storage.exists(where):
        begun = storage.exists(storage.join(uri, PLAN))
        raise InputError(
            f"wanted a finished folder with {MANIFEST}, got {storage.public_uri(uri)} "
            + ("whose run has not ended; repeat its command" if begun else "without one")
        )
    data = storage.read_bytes(where)
    content = parse_json(data, where)
    if (
        not str(content.get("format", "")).startswith("avader-")
        or content.get("version") != VERSION
    ):
        raise InputError(f"wanted an avader manifest, version {VERSION}, in {where}")
    if kind is not None and content["kind"] != kind:
        raise InputError(
            f"wanted a folder of {kind}, got {storage.public_uri(uri)} of {content['kind']}"
        )
    return Manifest(
        uri=uri,
        kind=content["kind"],
        fingerprint=content["plan"],
        settings=content["settings"],
        totals=content["totals"],
        parts=content["parts"],
        facts=content["facts"],
        provenance=content["provenance"],
        digest=hashlib.sha256(data).hexdigest(),
        rooted=content.get("rooted", False),
    )


def _plan_bytes(plan: Plan) -> bytes:
    return _json_bytes(
        {
            "format": "avader-plan",
            "version": VERSION,
            "kind": plan.kind,
            "fingerprint": plan.fingerprint,
            "settings": plan.settings,
            "units": len(plan.units),
        }
    )


def _is_same_work(held: Mapping[str, Any], plan: Plan) -> bool:
    """Whether the plan in a folder differs from the one wanted in who does the work alone."""
    ours, theirs = (
        {name: each[name] for name in each if (name in DOERS or is_address(name)) == aside}
        for each, aside in ((plan.settings, False), (held.get("settings", {}), True))
    )
    same = replace(plan, settings=ours | theirs)
    return held.get("fingerprint") in (same.fingerprint, same.old_fingerprint)


def _difference(held: Mapping[str, Any], plan: Plan) -> str:
    """What differs between the plan in a folder and the one wanted, in words."""
    if held.get("kind") != plan.kind:
        return f"it is for {held.get('kind')}, this one for {plan.kind}"
    before, now = _flat(held.get("settings", {})), _flat(plan.settings)
    differing = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted((before.keys() | now.keys()) - {"files"})  # a digest tells nobody what
        if before.get(name) != now.get(name) and not is_address(name)
    ]
    return "; ".join(differing[:8]) or "its input has changed"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as JSON would give them back."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(settings)).items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
