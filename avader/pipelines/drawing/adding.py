"""`generate --add`: what a sky lacks of the objects asked for becomes its next increment."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from avader.config import GenerateSettings
from avader.errors import InputError
from avader.io import growth, manifest, storage
from avader.mixture.sample import Draw
from avader.plan import Plan, canonical_json

Block = tuple[int, int]
# What may differ between increments: how many objects, in how many shards, and what changes none.
FREE = ("count", "blocks", "rows_per_shard", "model_uri", *manifest.DOERS)


class SkyIncrement(growth.Increment):
    """What a run of `generate` makes."""

    @property
    def start(self) -> int:
        """Index of its first object."""
        return self.before[-1].settings["count"] if self.before else 0

    @property
    def blocks_before(self) -> list[Block]:
        """(component, objects) of the blocks that are there."""
        held = self.before[-1].settings["blocks"] if self.before else []
        return [(component, count) for component, count in held]

    def draw(self, settings: GenerateSettings) -> Draw:
        """What the settings draw, in blocks those that are there first.

        Raises InputError where the sky holds more than is asked for.
        """
        missing = Counter(settings.counts)
        for component, count in self.blocks_before:
            missing[component] -= count
        wrong = sorted(component for component, count in missing.items() if count < 0)
        if settings.counts and wrong:
            held = settings.counts.get(wrong[0], 0) - missing[wrong[0]]
            raise InputError(
                f"--add: wanted counts of all objects of the sky, got {wrong[0]}="
                f"{settings.counts.get(wrong[0], 0)} where {storage.public_uri(self.root)} holds "
                f"{held} of it already"
            )
        more = [(component, count) for component, count in sorted(missing.items()) if count]
        return Draw(
            settings.seed,
            components=settings.components,
            weights=settings.weights,
            blocks=(*self.blocks_before, *more) if settings.counts else (),
            variance_scale=settings.variance_scale,
            truncation=settings.truncation,
        )

    def check(self, plan: Plan) -> None:
        """Raise InputError where what is added would not be of the same sky."""
        if not self.before:
            return
        held, where = self.before[-1].settings, storage.public_uri(self.root)
        if bool(held["blocks"]) != bool(plan.settings["blocks"]):
            kind = "counts" if held["blocks"] else "count"
            raise InputError(f"--add: wanted --{kind}, as {where} was drawn by it, got the other")
        if self.start > plan.settings["count"]:
            raise InputError(
                f"--add: wanted a count of all objects of the sky, got {plan.settings['count']:,} "
                f"where {where} holds {self.start:,} already"
            )
        now = _plain(plan.settings)
        differing = [
            f"{name} was {held.get(name)!r} and is now {now.get(name)!r}"
            for name in sorted({*held, *now} - {*FREE})
            if held.get(name) != now.get(name)
        ]
        if differing:
            raise InputError(
                f"--add: wanted the sky of {where}, got another: {'; '.join(differing)}; give the "
                "settings it was drawn with, or another --out"
            )


def increment_of(settings: GenerateSettings) -> SkyIncrement:
    """What the settings ask for. Raises InputError where nothing finished is there to add to."""
    root = storage.absolute(settings.out)
    if not settings.add:
        return SkyIncrement(root)
    return SkyIncrement(root, tuple(growth.read_increments(root, kind="synthetic")))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a manifest has them: tuples are lists."""
    plain: dict[str, Any] = json.loads(canonical_json(settings))
    return plain
