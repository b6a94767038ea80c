"""What Prometheus finds of a run of units at the metrics port of Ray on the driver's machine.

Ray puts `ray_` before a counter's name and `_total` behind it, and adds labels of its own. It takes
a process's counts every 10 s and loses the last ones of a process that ends: so nothing is counted
by workers, which end with every wave, but by the driver and by the board beside it.
"""

from functools import cache

from ray.util.metrics import Counter

from avader.plan import Receipt


class Counters:
    """What a run's driver sees. kind: of the plan, such as classified, a label of each counter."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._units = Counter(
            "avader_units",
            "Units of work that ended, by result: done, set_aside",
            ("kind", "result"),
        )
        self._objects = Counter(
            "avader_objects",
            "Objects of units that are done, by result: row, reject",
            ("kind", "result"),
        )
        self._bytes = Counter("avader_written_bytes", "Bytes of the parts written", ("kind",))

    def done(self, receipt: Receipt) -> None:
        """Count a unit that is done."""
        _add(self._units, 1, kind=self._kind, result="done")
        _add(self._objects, receipt.rows, kind=self._kind, result="row")
        _add(self._objects, receipt.rejects, kind=self._kind, result="reject")
        _add(self._bytes, receipt.size, kind=self._kind)

    def set_aside(self) -> None:
        """Count a unit that was set aside."""
        _add(self._units, 1, kind=self._kind, result="set_aside")


def count_lost_attempt(stage: str, *, stalled: bool) -> None:
    """Count an attempt at a unit that ended with its worker."""
    _add(_lost_attempts(), 1, stage=stage, cause="stalled" if stalled else "worker_lost")


def count_seconds(stage: str, seconds: float) -> None:
    """Count the time that a unit took in a stage."""
    _add(_stage_seconds(), seconds, stage=stage)


@cache
def _lost_attempts() -> Counter:
    return Counter(
        "avader_lost_attempts",
        "Attempts at a unit that ended with their worker, by cause: stalled, worker_lost",
        ("stage", "cause"),
    )


@cache
def _stage_seconds() -> Counter:
    return Counter("avader_stage_seconds", "Seconds that units took in a stage", ("stage",))


def _add(counter: Counter, value: float, **labels: str) -> None:
    """Raise a counter; Ray refuses to by 0."""
    if value > 0:
        counter.inc(value, labels)
