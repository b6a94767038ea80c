"""A plan's units of work on Ray Data: what is missing is done, counted, then declared finished.

A unit is one block. Its worker writes the unit's objects itself, so that rows never pass through
the driver, and gives back a receipt. A killed run is repeated with the same command.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data

from avader.config import InferenceSettings, PackSettings
from avader.errors import InputError
from avader.io import manifest, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.cluster import Device, Pool, cluster
from avader.pipelines.progress import Progress, say
from avader.pipelines.quiet import without_known_noise
from avader.plan import Plan, Receipt, Unit

DoUnit = Callable[[Unit], Receipt]


def finish_folder(
    plan: Plan,
    settings: PackSettings | InferenceSettings,
    *,
    opening: str,
    prepare: Callable[[], Callable[[], DoUnit]],
    progress: Progress,
    provenance: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    device: Device = "cpu",
) -> Manifest | None:
    """Do a plan into its output folder; the manifest, or None where it was finished before.

    opening: the line said before work starts. prepare: called once Ray is there, gives the `make`
    of finish_units. facts, provenance: for the manifest. Raises InputError where the folder is
    another plan's.
    """
    out = storage.absolute(settings.out)
    manifest.open_plan(out, plan)
    if manifest.is_finished(out):
        say(f"{settings.out} is finished already: nothing to do")
        return None
    say(opening)
    with cluster(settings, device=device) as pool:
        receipts = finish_units(plan, out, make=prepare(), pool=pool, progress=progress)
    return manifest.write_manifest(out, plan, receipts, facts=facts, provenance=provenance)


def finish_units(
    plan: Plan,
    out: str,
    *,
    make: Callable[[], DoUnit],
    pool: Pool,
    progress: Progress,
) -> list[Receipt]:
    """Do the plan's units that are not done yet; receipts of all, in plan order.

    make: called once in each worker process, gives the function that does a unit.
    """
    done = shards.done_units(out)
    remaining = plan.remaining(done)
    receipts = {r.unit: r for r in shards.read_receipts(out, _named(plan, done))}
    if receipts:
        progress.before = progress.done = sum(receipt.rows_in for receipt in receipts.values())
        say(f"  going on: {len(receipts):,} of {len(plan.units):,} units were done before")
    if remaining:
        with without_known_noise():
            for receipt in _do_units(remaining, make=make, pool=pool):
                receipts[receipt.unit] = receipt
                progress.add(receipt.rows_in, receipt.rejects)
    for folder in ("parts", "rejects"):
        storage.remove_asides(storage.join(out, folder))
    return [receipts[unit.name] for unit in plan.units]


def _named(plan: Plan, done: set[str]) -> list[str]:
    return [unit.name for unit in plan.units if unit.name in done]


def _do_units(
    units: Sequence[Unit], *, make: Callable[[], DoUnit], pool: Pool
) -> Iterator[Receipt]:
    rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
    # One block per unit: otherwise units are lumped into a few blocks.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(make,),
        batch_size=1,
        num_cpus=1,
        num_gpus=pool.gpus,
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, len(units))),
    )
    for row in dataset.iter_rows():
        if row["refusal"]:
            raise InputError(row["refusal"])
        yield Receipt(**json.loads(row["receipt"]))


class _Worker:
    """A worker process: made ready by its first unit, does units one after another.

    Bad input goes back as its text: an exception would lose its type on the way.
    """

    def __init__(self, make: Callable[[], DoUnit]) -> None:
        self.make = make
        self.do_unit: DoUnit | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (text,) = batch["unit"]
        try:
            self.do_unit = self.do_unit or self.make()
            receipt = self.do_unit(Unit(**json.loads(text)))
        except InputError as error:
            return {"receipt": np.array([""]), "refusal": np.array([str(error)])}
        return {"receipt": np.array([json.dumps(asdict(receipt))]), "refusal": np.array([""])}
