"""`tune`: a search over a recipe's ranges, on Ray Tune, ends in the best recipe as TOML.

Below the output folder: plan.json (what it is for), trials/ (a record a trial that has ended),
unfinished/ (values and state of those that have not), trials.csv (a row a trial), and best.toml,
written last. The same command goes on after anything was killed; trials that have ended are kept,
begun ones go on from the state that was written last.
"""

import logging
from dataclasses import dataclass

import ray
from ray.tune import TuneError

from avader.config import TuneSettings
from avader.errors import InputError, TrainingError
from avader.io import growth, manifest, storage
from avader.io.manifest import Manifest
from avader.pipelines.cluster import Pool, cluster
from avader.pipelines.holding import holding
from avader.pipelines.progress import say
from avader.pipelines.train import ASIDE, check, cpus_each, recipe_of
from avader.pipelines.training.memory import check_memory
from avader.pipelines.tuning.records import (
    BEST,
    Record,
    best_of,
    best_toml,
    read_records,
    take_begun,
)
from avader.pipelines.tuning.search import Ledger, run_trials
from avader.pipelines.tuning.trial import Search
from avader.plan import Plan
from avader.ranges import extremes
from avader.recipe import Recipe, setting, varied

HELD_OUT = 0.1
"""Least share of the images that a search holds out."""


@dataclass(frozen=True)
class Places:
    """Where trials run: on GPUs or not, how many at once, the CPUs of each, and how many of them
    one machine may come to hold."""

    use_gpu: bool
    at_once: int
    cpus: int
    neighbours: int


def run(settings: TuneSettings) -> None:
    """Search to the last trial, or go on with what was begun, or say that it is done.

    Raises InputError for bad input before any work, TrainingError where no trial could end,
    BusyError where another run works in the output folder.
    """
    out, data = storage.absolute(settings.out), storage.absolute(settings.data)
    recipe = recipe_of(settings)
    if not recipe.search:
        raise InputError(
            f"wanted a recipe with ranges to search, got {settings.recipe} without; give it a "
            'table [search], such as "optimiser.learning_rate" = { low = 3e-4, high = 3e-3, '
            "log = true }"
        )
    recipe = recipe.model_copy(update={"held_out": max(recipe.held_out, HELD_OUT)})
    cutouts = growth.read_whole(data, kind="cutouts")
    _check(recipe, cutouts)
    if settings.memory_limit:
        check_memory(cutouts, recipe, gibibytes=settings.memory_limit, world=1)
    manifest.open_plan(out, plan(recipe, cutouts, settings.collapse_penalty))
    best = storage.join(out, BEST)
    with holding(out, lambda: _is_finished(out, settings.trials)) as unfinished:
        records = read_records(out)
        if not unfinished:
            say(f"{settings.out} holds this search, {len(records)} trials: nothing to do")
            say(storage.read_text(best))
            return
        if len(records) < settings.trials:
            with cluster(settings) as pool:
                records = _search(settings, recipe, cutouts, records, _places(settings, pool))
        text = _best(recipe_of(settings), settings.recipe, records)
        storage.write_bytes(best, text.encode())
    say(f"searched: {settings.out}; the best recipe, {settings.out.rstrip('/')}/{BEST}:\n\n{text}")


def _is_finished(out: str, trials: int) -> bool:
    """Whether a search has all its trials, and its best recipe."""
    return storage.exists(storage.join(out, BEST)) and len(read_records(out)) >= trials


def plan(recipe: Recipe, cutouts: Manifest, penalty: float) -> Plan:
    """What decides a search but for its length: recipe, ranges, images, the measure."""
    return Plan(
        kind="search",
        settings={
            "recipe": recipe.model_dump(mode="json", exclude=ASIDE - {"search"}),
            "data": {"digest": cutouts.digest, "rows": cutouts.totals["rows"]},
            "collapse_penalty": penalty,
        },
    )


def _check(recipe: Recipe, cutouts: Manifest) -> None:
    """Raise InputError where the recipe, or an end of a range, doesn't fit the images."""
    check(recipe, cutouts)
    for name, value in extremes(recipe.search):
        check(varied(recipe, {name: value}), cutouts)
    rows = cutouts.totals["rows"]
    if not round(rows * recipe.held_out):
        raise InputError(
            f"wanted at least one image to hold out ({recipe.held_out} of all), got {rows} images "
            f"in {storage.public_uri(cutouts.uri)}; pack more"
        )


def _search(
    settings: TuneSettings,
    recipe: Recipe,
    cutouts: Manifest,
    records: list[Record],
    places: Places,
) -> list[Record]:
    """Run the trials that are left; returns all that have ended."""
    out = storage.absolute(settings.out)
    search = Search(
        recipe,
        cutouts,
        out,
        device="cuda" if places.use_gpu else "cpu",
        penalty=settings.collapse_penalty,
        memory_limit=settings.memory_limit,
        neighbours=places.neighbours,
    )
    begun = take_begun(out, records)
    if records or begun:
        say(f"  going on: {len(records)} trials have ended, {len(begun)} have begun")
    say(
        f"searching {settings.recipe} on {cutouts.totals['rows']:,} images, {recipe.held_out:.0%} "
        f"held out: {settings.trials} trials of at most {search.epochs} epochs, {places.at_once} "
        f"at once on {'a GPU' if places.use_gpu else f'{places.cpus} CPU(s)'} each"
    )
    ledger = Ledger(search, records, settings.trials)
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        run_trials(
            search,
            ledger,
            begun or ([] if records else _own_values(recipe)),
            at_once=places.at_once,
            each={"cpu": places.cpus, "gpu": int(places.use_gpu)},
            max_failures=settings.max_failures,
        )
    except TuneError as error:
        raise TrainingError(f"the search stopped: {error}; the same command goes on") from error
    if ledger.problem:
        raise InputError(ledger.problem)
    if ledger.lost:
        done = len(ledger.records)
        others = f"; with --trials {done} it takes the best of the others" if done else ""
        raise TrainingError(
            f"{len(ledger.lost)} trial(s) were lost after {settings.max_failures} restarts: "
            f"{ledger.lost[0]}. The same command goes on with them{others}."
        )
    return ledger.records


def _own_values(recipe: Recipe) -> list[dict[str, object]]:
    """The recipe's own values, tried first, where its ranges hold them all."""
    values = {name: setting(recipe, name) for name in recipe.search}
    return [values] if all(recipe.search[name].holds(values[name]) for name in values) else []


def _places(settings: TuneSettings, pool: Pool) -> Places:
    """As the settings ask, and the cluster allows."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if settings.device == "gpu" and not gpus:
        raise InputError("wanted GPUs (--device gpu), got a cluster without; use --device auto")
    use_gpu = settings.device != "cpu" and gpus > 0
    hosts = [node for node in nodes if node.get("GPU" if use_gpu else "CPU", 0) >= 1]
    most = gpus if use_gpu else pool.workers
    at_once = settings.workers or max(1, min(most, settings.trials // 5))
    cpus = cpus_each(hosts, at_once, use_gpu)
    room = max(int(host["GPU"] if use_gpu else host["CPU"] // cpus) for host in hosts)
    return Places(use_gpu, at_once, cpus, neighbours=max(1, min(at_once, room)))


def _best(recipe: Recipe, name: str, records: list[Record]) -> str:
    """The best recipe as TOML text. Raises TrainingError where no trial came to the end."""
    best = best_of(records)
    if best is None:
        reasons = [record.failure for record in records if record.failure]
        raise TrainingError(
            f"no trial of {len(records)} was trained to the end"
            + (f"; the last one failed: {reasons[-1]}" if reasons else "")
            + "; change the ranges, with another --out"
        )
    return best_toml(recipe, name, best, records)
