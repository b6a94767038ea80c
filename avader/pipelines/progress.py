"""What a run says while it works: one honest line now and then."""

import logging
import time

logger = logging.getLogger("avader")


def say(line: str) -> None:
    """Say a line to whoever started the job."""
    logger.info(line)


class Progress:
    """Counts objects and says rate, share done, rejects and time left.

    verb: "packed"; total: objects in all, or None where not known; done: objects counted by an
    earlier run, left out of the rate; workers: that give results side by side. A line is said at
    most every `every` seconds.
    """

    def __init__(
        self, verb: str, total: int | None, *, done: int = 0, noun: str = "images", every: float = 5
    ) -> None:
        self.verb, self.total, self.noun, self.every = verb, total, noun, every
        self.before = self.done = done
        self.rejects = self.results = 0
        self.workers = 1
        self.said = self.first = time.monotonic()
        self.warm = self.done

    def add(self, objects: int, rejects: int = 0) -> None:
        """Count objects that are finished, and how many of them were refused."""
        now = time.monotonic()
        self.done += objects
        self.results += 1
        if self.results <= self.workers:
            self.first, self.warm = now, self.done
        self.rejects += rejects
        if now - self.said >= self.every:
            self.said = now
            say(f"  {self.line()}")

    @property
    def rate(self) -> float:
        """Objects per second since each worker gave a first result: their start is left out.

        0 before there is another result.
        """
        return (self.done - self.warm) / max(time.monotonic() - self.first, 1e-9)

    def line(self) -> str:
        """The counts as one line."""
        of = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.verb} {self.done:,}{of} {self.noun}"]
        if self.rate > 0:
            parts.append(f"{self.rate:,.1f} a second")
        if self.rejects:
            parts.append(f"{self.rejects:,} rejects")
        if self.total is not None and self.rate > 0 and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes as people say them: "512 B", "1.5 GiB"."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.1f} {units[0]}" if units[0] != "B" else f"{count:,} B"
