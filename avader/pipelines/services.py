"""A survey service as the source of `pack`'s images: its settings, and one pace for all workers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import ray
from ray.actor import ActorHandle

from avader.catalogue.pixels import position_problem
from avader.config import ServiceSettings
from avader.errors import InputError
from avader.images.checks import CutoutError
from avader.pipelines.stages import gets_on
from avader.plan import Unit
from avader.recipe import Preprocessing
from avader.survey.client import WITNESSES, Client, Pace, Place
from avader.survey.services import BANDS, HOMES, LAYERS, PIXELS, SCALES, Service
from avader.survey.sources import Source, read_unit
from avader.survey.tables import is_number

# At the start nothing is lost yet, so nobody need wait long to hear that a service is down.
FIRST_PATIENCE = 20.0


def service_of(settings: ServiceSettings) -> Service | None:
    """The service that is asked for, with its defaults."""
    if settings.name == "none":
        return None
    return Service(
        name=settings.name,
        layer=settings.layer or LAYERS[settings.name],
        size=settings.size,
        scale=settings.scale or PIXELS[settings.name],
        scale_column=settings.scale_column,
        format=settings.format,
        bands=settings.bands or BANDS[settings.name],
        home=settings.url or HOMES[settings.name],
    )


def check_service(service: Service, source: Source, preprocessing: Preprocessing) -> None:
    """Raise InputError where table or preprocessing do not go with a service."""
    if source.layout is None or not source.has_positions:
        raise InputError(
            f"wanted a Parquet table with columns of positions for --service.name {service.name}, "
            "came none; name them with --ra-column and --dec-column"
        )
    low, high = SCALES[service.name]
    if service.scale_column is None and not low <= service.scale <= high:
        raise InputError(
            f"--service.scale: wanted {low:g} to {high:g} arcsec/px of {service.name}, got "
            f"{service.scale:g}"
        )
    name, carried = service.scale_column, source.carried
    if name is not None and name not in carried.names:
        raise InputError(
            f"wanted a column {name!r}, came columns {', '.join(carried.names) or 'none'}; say "
            "which it is with --service.scale-column"
        )
    if name is not None and not is_number(carried.field(name).type):
        raise InputError(f"wanted numbers, arcsec, in {name!r}, came {carried.field(name).type}")
    if preprocessing.crop > service.size:
        raise InputError(
            f"--preprocessing.crop: wanted at most the {service.size} px of --service.size, got "
            f"{preprocessing.crop}"
        )
    bands, weights, came = preprocessing.bands, preprocessing.weights, service.planes
    if max(bands, default=0) >= came or (weights and not bands and len(weights) != came):
        raise InputError(
            f"--preprocessing.bands: wanted some of the {came} bands that the service gives, "
            f"numbers from 0, or a weight for each, got bands {list(bands)}, weights "
            f"{list(weights)}"
        )


def place_of(row: Mapping[str, Any], service: Service) -> Place:
    """Where a row's cutout is; the row's position is known to be one.

    Raises CutoutError where its scale cannot be drawn.
    """
    value = None if service.scale_column is None else row[service.scale_column]
    scale = service.scale_at(None if value is None else float(value))
    return Place(float(row["ra"]), float(row["dec"]), scale)


def find_witness(service: Service, units: Sequence[Unit], *, rate: float, patience: float) -> Place:
    """A place of the table that the service answers to.

    Raises InputError where it answers to none of a few, spread over the table.
    """
    client = Client(service, Pace(rate), rate=rate, patience=min(patience, FIRST_PATIENCE))
    try:
        return client.find_witness(islice(_spread_places(service, units), WITNESSES))
    finally:
        client.close()


def _spread_places(service: Service, units: Sequence[Unit]) -> Iterator[Place]:
    """A few places of each unit that has some; of units in an order that leaps over the table."""
    last = len(units) - 1
    firsts = {last * number // (WITNESSES - 1) for number in range(WITNESSES)}
    each = -(-WITNESSES // len(firsts))
    for number in [*sorted(firsts), *sorted(set(range(len(units))) - firsts)]:
        yield from islice(_places(service, units[number]), each)


def _places(service: Service, unit: Unit) -> Iterator[Place]:
    """The places of a unit's rows, of those that have one."""
    for row in read_unit(unit).to_pylist():
        if not row["object_id"] or position_problem(row["ra"], row["dec"]):
            continue
        try:
            yield place_of(row, service)
        except CutoutError:
            continue


class SharedPace:
    """The pace of all workers: one small actor says whose turn it is. Travels to workers."""

    def __init__(self, rate: float) -> None:
        kept = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Pace)
        self.actor: ActorHandle = kept.remote(rate)

    def turn(self) -> float:
        """Reserve the next turn; seconds until it comes.

        Many workers wait long for their turns: a unit that asks for one has not stalled.
        """
        wait = float(ray.get(self.actor.turn.remote()))
        gets_on(wait)
        return wait

    def pause(self, seconds: float) -> None:
        """Give no turn for so long."""
        ray.get(self.actor.pause.remote(seconds))
