"""Asking a survey service for cutouts: at a polite pace, again where it failed, never for ever.

A service's answer is one of four: the image; a refusal of this one object (404); something
doubtful (an error page, a 500), asked a few times over; or a failure of service or network (503,
a reset, a body cut short), asked again until the patience ends, which ends the run. What was
refused or doubtful is believed only where the service still gives the image that it gave at the
start (the witness), so that an outage makes no rejects.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import requests

from avader import __version__
from avader.errors import HaltError, InputError
from avader.images.checks import CutoutError, Reason, plain
from avader.io.storage import public_uri
from avader.survey.services import Service

# Requests that one worker has open at a time.
THREADS = 4
CONNECT_SECONDS, SILENT_SECONDS, WHOLE_SECONDS = 10, 60, 120
# Doubtful answers to one object before it is refused.
DOUBTS = 4
LONGEST_WAIT = 60.0
PASSING = {408, 425, 429, 502, 503, 504}
OVERLOADED = {429, 503}
BARRED = {401, 403, 407}
WITNESSES = 5
# What newer releases of SDSS say, with status 404, where older ones draw it.
_OUTSIDE = re.compile(r"outside the \w+ footprint", re.IGNORECASE)


class Pacing(Protocol):
    """Who says when the next request may go out."""

    def turn(self) -> float:
        """Reserve the next turn; seconds until it comes."""
        ...

    def pause(self, seconds: float) -> None:
        """Give no turn for so long: the service is overloaded."""
        ...


class Pace:
    """Turns at an even rate, requests per second."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self.next = clock()
        self.lock = threading.Lock()

    def turn(self) -> float:
        """Reserve the next turn; seconds until it comes."""
        with self.lock:
            now = self.clock()
            at = max(now, self.next)
            self.next = at + 1 / self.rate
            return at - now

    def pause(self, seconds: float) -> None:
        """Give no turn for so long; turns already given stay."""
        with self.lock:
            self.next = max(self.next, self.clock() + seconds)


@dataclass(frozen=True)
class Place:
    """A cutout's centre, degrees ICRS, and its scale, arcsec/px."""

    ra: float
    dec: float
    scale: float


@dataclass(frozen=True)
class Reply:
    """What came of one request; status 0: no whole answer; after: seconds of Retry-After."""

    status: int
    words: str
    data: bytes = b""
    after: float = 0.0


class Client:
    """One worker's side of a service; its threads ask at the pace that all workers share.

    rate: requests per second of all workers, which the first wait after a failure follows.
    patience: seconds that one object is asked for again before the service counts as down.
    witness: a place that the service answered to; None believes every refusal.
    """

    def __init__(
        self,
        service: Service,
        pace: Pacing,
        *,
        rate: float,
        patience: float,
        witness: Place | None = None,
    ) -> None:
        self.service, self.pace, self.patience = service, pace, patience
        self.witness = witness
        self.first_wait = 4 / rate
        self.down = ""
        self.session = requests.Session()
        self.session.headers.update(
            {"User-Agent": f"avader/{__version__}", "Accept-Encoding": "identity"}
        )
        self.session.max_redirects = 3

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def find_witness(self, places: Iterable[Place]) -> Place:
        """The first of some places that the service gives an image of, with sky or without.

        Raises InputError where it gives none: the address or the layer may be wrong.
        """
        last, tried = "no object has an id, a position and a scale", 0
        for place in places:
            tried += 1
            came = self.cutout(place)
            if isinstance(came, bytes) or _is_image(came):
                return place
            last = str(came)
        raise InputError(
            f"wanted a cutout from {public_uri(self.service.home)}, got none for {tried} "
            f"objects of the table (the last one: {last}); look at --service.* and at the positions"
        )

    def cutouts(self, places: Sequence[Place]) -> list[bytes | CutoutError]:
        """The cutout of each place, or why there is none.

        Raises InputError where the service is down, bars us, or refuses the witness too.
        """
        with _stopping_pool() as pool:
            came = list(pool.map(self.cutout, places))
        if self.witness is not None and not all(map(_is_image, came)):
            again = self.cutout(self.witness)
            if isinstance(again, CutoutError) and not _is_image(again):
                raise self._ended(f"it refuses what it gave before ({again})")
        return came

    def cutout(self, place: Place) -> bytes | CutoutError:
        """One cutout, or why the service has none. Raises InputError where the service is down."""
        url = self.service.address(place.ra, place.dec, place.scale)
        begun, doubts, failures = None, 0, 0
        while True:
            reply = self._ask(url)
            if reply.status in BARRED:
                raise self._ended(f"it answers {reply.words}, and may have barred this address")
            answer = self._judge(reply)
            if answer is not None:
                doubts += 1
                if not _is_doubtful(reply, answer) or doubts == DOUBTS:
                    return answer
            failures += 1
            begun = begun or time.monotonic()
            wait = max(reply.after, self._wait(failures))
            if time.monotonic() + wait - begun > self.patience:
                if answer is not None:
                    return answer
                rest = f", asking for {reply.after:.0f} s of rest" if reply.after else ""
                raise self._ended(
                    f"{failures} failures in a row, the last one: {reply.words}{rest}"
                )
            if reply.status in OVERLOADED:
                self.pace.pause(wait)
            time.sleep(wait)

    def _wait(self, failures: int) -> float:
        """Seconds before the next try: twice as long each time, less a random part."""
        longest = min(LONGEST_WAIT, self.first_wait * 2 ** min(failures - 1, 20))
        return longest * random.uniform(0.5, 1)

    def _judge(self, reply: Reply) -> bytes | CutoutError | None:
        """What an answer says of the object; None where it tells of service or network alone."""
        if reply.status == 0 or reply.status in PASSING:
            return None
        if reply.status == 200:
            try:
                self.service.check(reply.data)
            except CutoutError as error:
                return error
            return reply.data
        said = reply.words + " " + reply.data[:1000].decode(errors="replace")
        outside = 400 <= reply.status < 500 and _OUTSIDE.search(said) is not None
        return CutoutError(
            Reason.OUTSIDE_FOOTPRINT if outside else Reason.SERVICE_REFUSED,
            f"the service answered {reply.words}",
        )

    def _ask(self, url: str) -> Reply:
        """One request, in its turn. Raises InputError once the service has been found down."""
        time.sleep(self.pace.turn())
        if self.down:
            raise HaltError(self.down)
        limit = time.monotonic() + WHOLE_SECONDS
        try:
            with self.session.get(
                url, stream=True, timeout=(CONNECT_SECONDS, SILENT_SECONDS)
            ) as response:
                data = bytearray()
                for piece in response.iter_content(65536):
                    data += piece
                    if time.monotonic() > limit:
                        return Reply(0, f"not a whole answer in {WHOLE_SECONDS} s")
                    if len(data) > self.service.most_bytes:
                        break
                words = plain(f"{response.status_code} {response.reason}".strip())
                after = _retry_after(response.headers.get("Retry-After"))
                return Reply(response.status_code, words, bytes(data), after)
        except requests.RequestException as error:
            return Reply(0, plain(f"{type(error).__name__}: {error}"))

    def _ended(self, why: str) -> HaltError:
        """The error that ends the run; the other threads stop by it too."""
        self.down = (
            f"wanted cutouts from {public_uri(self.service.home)}, but the service is down: {why}; "
            "what is packed is kept: repeat the same command when the service answers again"
        )
        return HaltError(self.down)


def _is_image(came: bytes | CutoutError) -> bool:
    """Whether the service knew the place: it drew it, or says that it has no sky there."""
    return isinstance(came, bytes) or came.reason is Reason.OUTSIDE_FOOTPRINT


def _is_doubtful(reply: Reply, answer: bytes | CutoutError) -> bool:
    """Whether another try may give something else."""
    if reply.status == 200:
        return not _is_image(answer)
    return not 400 <= reply.status < 500


@contextmanager
def _stopping_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is dropped when one of them fails."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _retry_after(value: str | None) -> float:
    """Seconds that a service asks to be left alone; 0 where it does not say, or not clearly."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
