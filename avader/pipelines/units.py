"""A plan's units of work on Ray Data: what is missing is done, counted, then declared finished.

A unit is one block on its way through the stages; the last one's worker writes the unit's objects
itself, so that rows never pass through the driver, and gives back a receipt. A killed run is
repeated with the same command. A unit that fails again and again is set aside, and all others done.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import ray
import ray.data

from avader.config import UnitSettings
from avader.errors import HaltError, InputError, UnfinishedError
from avader.io import manifest, shards, storage
from avader.io.manifest import Manifest
from avader.io.retry import seconds_limit
from avader.pipelines.attempts import Attempts
from avader.pipelines.board import Board, reading
from avader.pipelines.cluster import Pool, cluster
from avader.pipelines.dry_run import Trial, dry_run
from avader.pipelines.finished import say_finished
from avader.pipelines.holding import holding
from avader.pipelines.memory import SMALL, Need
from avader.pipelines.metrics import Counters
from avader.pipelines.progress import Progress, say
from avader.pipelines.quiet import without_known_noise
from avader.pipelines.stages import (
    Outcome,
    Stage,
    Worker,
    block_of,
    outcome_of,
    write_stage,
)
from avader.plan import Plan, Receipt, Unit, ranges

WAVE = 1000
"""Units of one execution of Ray Data: what the driver has submitted at once, or twice that."""
SHOWN = 20
"""Units set aside that are said one by one."""
PATIENCE = 20.0
"""Seconds that a run that stops early waits for a wave's next unit."""
STORE_SHARE = 0.25
"""Of the object store, what the blocks of a wave may take; two waves may be under way."""
HOPELESS = 8
"""So many unusable units before the first good one are all units' trouble: the run stops."""


def finish_folder(
    plan: Plan,
    settings: UnitSettings,
    *,
    opening: str,
    prepare: Callable[[], Sequence[Stage]],
    trial: Trial,
    progress: Progress,
    provenance: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    finish: Callable[[Sequence[Receipt]], Mapping[str, Any]] = lambda _: {},
    need: Need = SMALL,
) -> Manifest | None:
    """Do a plan into its output folder; the manifest, or None where there was nothing to do.

    opening: the line said before work starts. prepare: called once Ray is there, gives the stages
    before the writing. trial: for a dry run, which does nothing else. facts, provenance: for the
    manifest. finish: called once all units are done, writes what else belongs to the folder and
    gives more facts. need: memory of a worker. Raises InputError where the folder is another
    plan's, no unit can be used or no machine has memory for a worker, UnfinishedError where units
    were set aside, BusyError where another run works there.
    """
    out = storage.absolute(settings.out)
    if settings.dry_run:
        dry_run(plan, settings, trial, need)
        return None
    manifest.check_plan(out, plan)
    with holding(out, lambda: manifest.is_finished(out)) as unfinished:
        if not unfinished:
            manifest.check_plan(out, plan)  # another run may have come to its end meanwhile
            say_finished(settings)
            return None
        say(opening)
        with cluster(settings, need) as pool:
            stages = prepare()
            # Not before: who is refused for want of a GPU or memory may ask for something else.
            manifest.open_plan(out, plan)
            receipts = finish_units(
                plan,
                out,
                stages=[*stages, write_stage(out, plan)],
                pool=pool,
                progress=progress,
                limit=_stall_limit(settings),
            )
        known = {**(facts or {}), **finish(receipts)}
        return manifest.write_manifest(out, plan, receipts, facts=known, provenance=provenance)


def _stall_limit(settings: UnitSettings) -> float:
    """Seconds of a stage: where nobody says how many, a unit that waits for its storage has not
    stalled."""
    given = "stall_limit" in settings.model_fields_set
    return settings.stall_limit if given else max(settings.stall_limit, 2 * seconds_limit())


def finish_units(
    plan: Plan,
    out: str,
    *,
    stages: Sequence[Stage],
    pool: Pool,
    progress: Progress,
    limit: float,
) -> list[Receipt]:
    """Do the plan's units that are not done yet; receipts of all, in plan order.

    stages: of every unit, the last one of which gives its receipt. limit: seconds of a stage of a
    unit before it counts as stalled. Raises as finish_folder does.
    """
    done = shards.done_units(out)
    remaining = plan.remaining(done)
    receipts = {r.unit: r for r in shards.read_receipts(out, _named(plan, done))}
    if receipts:
        progress.before = progress.done = sum(receipt.rows_in for receipt in receipts.values())
        progress.rejects = sum(receipt.rejects for receipt in receipts.values())
        say(f"  going on: {len(receipts):,} of {len(plan.units):,} units were done before")
    aside: list[Outcome] = []
    if remaining:
        progress.workers = min(pool.workers, len(remaining))
        board, counters = Board(Attempts), Counters(plan.kind)
        flow = partial(_flow, stages=stages, pool=pool, attempts=board.actor, limit=limit)
        with without_known_noise(), reading(board):
            for outcome in _outcomes(remaining, flow, low=2 * pool.workers):
                if outcome.receipt is None:
                    aside.append(outcome)
                    counters.set_aside()
                    _check_hope(aside, receipts)
                else:
                    receipts[outcome.receipt.unit] = outcome.receipt
                    progress.add(outcome.receipt.rows_in, outcome.receipt.rejects)
                    counters.done(outcome.receipt)
        board.say_all()
    _remove_asides(plan, out)
    if aside:
        _refuse(aside, plan, receipts)
    return [receipts[unit.name] for unit in plan.units]


def _remove_asides(plan: Plan, out: str) -> None:
    """Remove what killed writers left in the folders of the plan's parts and rejects."""
    root = plan.root or out
    places = {storage.parent(plan.place(unit.name)) for unit in plan.units}
    folders = {storage.join(out, "rejects"), *(storage.join(root, place) for place in places)}
    with ThreadPoolExecutor(shards.READERS) as pool:  # they may be as many as units
        list(pool.map(storage.remove_asides, sorted(folders)))


def _named(plan: Plan, done: set[str]) -> list[str]:
    return [unit.name for unit in plan.units if unit.name in done]


def _check_hope(aside: Sequence[Outcome], receipts: Mapping[str, Receipt]) -> None:
    """Raise InputError where all units will meet the problem: it says so, or all so far did."""
    if aside[-1].halts:
        raise HaltError(aside[-1].problem)
    if len(aside) >= HOPELESS and not receipts and all(outcome.unusable for outcome in aside):
        raise InputError(aside[0].problem)


def _refuse(aside: Sequence[Outcome], plan: Plan, receipts: Mapping[str, Receipt]) -> None:
    """Raise UnfinishedError with the units set aside, or InputError where none could be used."""
    aside = sorted(aside, key=lambda outcome: outcome.unit)
    if not receipts and all(outcome.unusable for outcome in aside):
        raise InputError(aside[0].problem)
    lines = [f"  {outcome.unit}: {outcome.problem}" for outcome in aside[:SHOWN]]
    if len(aside) > SHOWN:
        lines.append(f"  and {len(aside) - SHOWN:,} more")
    raise UnfinishedError(
        f"{len(aside):,} of {len(plan.units):,} units were set aside, all others are done:\n"
        + "\n".join(lines)
        + "\nthe same command tries them again"
    )


Flow = Callable[[Sequence[Unit]], ray.data.Dataset]


def _flow(
    units: Sequence[Unit],
    *,
    stages: Sequence[Stage],
    pool: Pool,
    attempts: Any,
    limit: float,
) -> ray.data.Dataset:
    """Units on their way through the stages.

    Where workers hold GPUs, each stage is an operator of its own, so that no GPU waits for storage;
    else the pool does them all, since a second process would only share its CPU.
    """
    ray.data.DataContext.get_current().override_object_store_memory_limit_fraction = STORE_SHARE
    # One block per unit: otherwise units are lumped into a few blocks.
    rows = [row for unit in units for row in block_of(unit, None).to_pylist()]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    options = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    for group in [[stage] for stage in stages] if pool.apart else [stages]:
        if any(stage.pooled for stage in group):
            size = min(pool.workers, len(units))
            blocks = blocks.map_batches(
                Worker,
                fn_constructor_args=(group, attempts, limit),
                compute=ray.data.ActorPoolStrategy(size=size),
                num_cpus=1,
                num_gpus=pool.gpus,
                memory=pool.memory or None,
                **options,
            )
        else:
            # No CPUs: they must not wait for the pool, which may have all.
            blocks = blocks.map_batches(
                Worker(group, attempts, limit),
                compute=ray.data.TaskPoolStrategy(
                    size=min(pool.helpers * pool.workers, len(units))
                ),
                num_cpus=0,
                **options,
            )
    return blocks


def _outcomes(units: Sequence[Unit], flow: Flow, *, low: int) -> Iterator[Outcome]:
    """What becomes of the units, as they end, by waves.

    low: units of a wave left when the next begins, so that workers do not wait for its last ones.
    """
    waves = [units[start:stop] for start, stop in ranges(len(units), WAVE)]
    ended: SimpleQueue[Outcome | Exception | None] = SimpleQueue()
    stop, threads = Event(), list[Thread]()
    running = left = 0
    try:
        while waves or running:
            if waves and running < 2 and left <= low:
                wave = waves.pop(0)
                running, left = running + 1, left + len(wave)
                thread = Thread(target=_run, args=(flow(wave), ended, stop), daemon=True)
                thread.start()
                threads.append(thread)
            outcome = ended.get()
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is None:
                running -= 1
                gc.collect()  # Ray Data leaves a wave's objects in cycles
            else:
                left -= 1
                yield outcome
    finally:
        stop.set()
        # Ray ends the process of a thread that asks it for more once it is shut down.
        for thread in threads:
            thread.join(PATIENCE)


def _run(
    blocks: ray.data.Dataset, ended: "SimpleQueue[Outcome | Exception | None]", stop: Event
) -> None:
    """Run a wave to its end, or to the stop; None is its last word."""
    try:
        for block in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
            if stop.is_set():
                return
            ended.put(outcome_of(block))
    except Exception as error:  # noqa: BLE001  # the driver raises it
        ended.put(error)
    else:
        ended.put(None)
