"""`pack --add`: a source becomes the next increment of a data set, like those before it."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from avader.catalogue.pixels import Pixel, named_pixel
from avader.config import PackSettings
from avader.errors import InputError
from avader.io import growth, shards, storage
from avader.plan import Plan
from avader.recipe import Preprocessing
from avader.survey.sources import Source

# What tells whether a source has been packed before, of a plan's settings.
SOURCE = ("source", "files", "columns", "selection", "service")


class Increment(growth.Increment):
    """What a run of `pack` makes."""

    @property
    def pixels(self) -> list[Pixel]:
        """Pixels that the data set was cut into before, which stay."""
        names = {PurePosixPath(path).stem for held in self.before for path in held.paths}
        return [pixel for pixel in map(named_pixel, sorted(names)) if pixel is not None]

    @property
    def rows_per_shard(self) -> int:
        """Objects of a shard, as the first increment has them; 0 where this is the first."""
        return self.before[0].settings["rows_per_shard"] if self.before else 0

    def store(self, settings: PackSettings) -> str:
        """How images are stored: as the first increment's are, or as asked where this is it.

        Raises InputError where the command says itself what they are not.
        """
        if not self.before:
            return settings.store
        held = "bytes" if self.before[0].holds_files else "pixels"
        if "store" in settings.model_fields_set and settings.store != held:
            raise InputError(
                f"--add: wanted images stored as in {storage.public_uri(self.root)}: store is "
                f"{held} there, {settings.store} in the command; leave it out, or pack into "
                "another --out"
            )
        return held

    def preprocessing(self, wanted: Preprocessing, asked: dict[str, Any]) -> Preprocessing:
        """The data set's own; `wanted` where this is the first increment.

        asked: what the command says itself. Raises InputError where that is something else.
        """
        if not self.before:
            return wanted
        taken = Preprocessing(**self.before[0].settings["preprocessing"])
        ours, theirs = wanted.model_dump(mode="json"), taken.model_dump(mode="json")
        other = [name for name in asked if ours[name] != theirs[name]]
        if other:
            shown = "; ".join(
                f"{name} is {theirs[name]} there, {ours[name]} in the command" for name in other
            )
            raise InputError(
                f"--add: wanted cutouts prepared as those of {storage.public_uri(self.root)}: "
                f"{shown}; leave it out, or pack into another --out"
            )
        return taken

    def packed_before(self, plan: Plan) -> int:
        """Number of the increment that the plan's source made already; 0 for none."""
        for number, held in enumerate(self.before, 1):
            if all(held.settings.get(name) == plan.settings[name] for name in SOURCE):
                return number
        return 0

    def in_order(self, source: Source) -> Source:
        """The source with its columns in the order of the first increment's."""
        if not self.before or source.layout is None:
            return source
        first, carried = self._columns(), source.carried
        order = {name: number for number, name in enumerate(first.names)}
        fields = [
            # Of data sets of earlier versions some may hold no null.
            field.with_nullable(field.name not in order or first.field(field.name).nullable)
            for field in sorted(carried, key=lambda field: order.get(field.name, len(order)))
        ]
        return replace(source, layout=replace(source.layout, carried=pa.schema(fields)))

    def _columns(self) -> pa.Schema:
        return shards.read_schema(self.before[0].uri, self.before[0].paths[0])

    def check(self, plan: Plan, columns: pa.Schema) -> None:
        """Raise InputError where what is added would not have the columns of the first, or its
        images other bands."""
        if not self.before:
            return
        shape, held = plan.settings["shape"], self.before[0].settings["shape"]
        if list(shape) != list(held):
            raise InputError(
                f"--add: wanted images of {held[0]} bands as in {storage.public_uri(self.root)}, "
                f"came {shape[0]}; pack them into another --out"
            )
        # By pyarrow's own comparison: Parquet gives the same lists other texts.
        ours, theirs = (
            {field.name: field.type for field in each} for each in (columns, self._columns())
        )
        changes = [f"no {n} {theirs[n]}" for n in sorted(theirs) if ours.get(n) != theirs[n]]
        changes += [f"also {n} {ours[n]}" for n in sorted(ours) if theirs.get(n) != ours[n]]
        if changes:
            raise InputError(
                f"--add: wanted the columns of {storage.public_uri(self.root)}, came "
                f"{', '.join(changes)}; change the source, or pack into another --out"
            )


def increment_of(settings: PackSettings) -> Increment:
    """What the settings ask for. Raises InputError where nothing finished is there to add to."""
    root = storage.absolute(settings.out)
    if not settings.add:
        return Increment(root)
    try:
        return Increment(root, tuple(growth.read_increments(root, kind="cutouts")))
    except InputError as error:
        if storage.exists(root):
            raise
        raise InputError(f"--add: {error}; the first time leave out --add") from error
