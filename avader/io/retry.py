"""Trying again what storage refused for the moment: which errors, and for how long.

What the libraries do by themselves (s3fs 2026.9, aiobotocore 3.10, pyarrow 26), and what is left:

- botocore retries a request by number, not by time, and not the reading of a body: 5 attempts in
  its old mode. s3fs wraps each request in 5 more (25 in all), without jitter, and gives up at once
  on a 500 or a 503 with another code than SlowDown. So `s3.OPTIONS` sets botocore's "standard" mode
  (full jitter, and a quota that stops a storm) to a known number of attempts, `s3.RETRIES` s3fs's
  own to one, and `patiently` is the only loop around them: of whole operations, bodies included.
- aiobotocore compares a body with its Content-Length, and with its checksum where the server sends
  one. Nobody compares a range with what was asked for; `s3.open_input` does.
- Arrow's S3FileSystem (data sets) retries requests and short bodies by number, with full jitter.
"""

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeVar

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from avader.errors import InputError, StorageError

T = TypeVar("T")

# Seconds for which an operation is tried again; in the environment, for a run's workers too.
VARIABLE, SECONDS = "AVADER_STORAGE_SECONDS", 300.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
# Seconds of trouble before a line says so.
SILENCE = 10.0

PASSING_STATUS = {408, 429, 500, 502, 503, 504}
PASSING_CODES = {
    "InternalError",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    # What arrived is not what was sent.
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    # Another writer of the same name, or its clean-up, came between.
    "ConditionalRequestConflict",
    "NoSuchUpload",
    "OperationAborted",
}
PASSING_ERRORS = (
    ConnectionError,
    TimeoutError,
    ResponseParserError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
)
_JITTER = random.SystemRandom()  # a training's own random numbers stay as they are


def patiently(
    call: Callable[[], T],
    what: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The call's result, tried again while its errors may pass: exponential back-off, full jitter.

    what: the operation, for messages ("read s3://bucket/object"). Other errors come through at
    once. Raises StorageError when the time is over; a try that is under way then is not cut off.
    """
    limit, began, said = seconds_limit(), clock(), False
    for tries in count(1):
        try:
            return call()
        except Exception as error:
            tried = clock() - began
            if not is_passing(error):
                raise
            if tried >= limit:
                raise StorageError(
                    f"cannot {what}: tried {tries} times in {tried:.1f} s, at last came "
                    f"{in_words(error)}; look at the storage (AWS_ENDPOINT_URL, its load, the "
                    f"network), then repeat the command, or give it more than {limit:g} s by "
                    f"{VARIABLE}"
                ) from error
            if tried > SILENCE and not said:
                said = True
                logging.getLogger(__name__).warning(
                    "cannot %s since %.0f s (%s): trying on until %g s",
                    *(what, tried, in_words(error), limit),
                )
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries - 1, 30))
        sleep(min(_JITTER.uniform(0, longest), limit - tried))
    raise AssertionError("count() never ends")


def seconds_limit() -> float:
    """Seconds for which an operation is tried again."""
    text = os.environ.get(VARIABLE, str(SECONDS))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise InputError(f"wanted seconds in {VARIABLE}, such as 300, came {text!r}; correct it")
    return limit


def is_passing(error: BaseException) -> bool:
    """Whether the same request may do better later: load, time-outs, connections, short bodies."""
    if isinstance(error, StorageError):
        return False  # it has been tried for long enough
    answer = client_error(error)
    if answer is not None:
        status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return code_of(error) in PASSING_CODES or status in PASSING_STATUS
    if any(_is_lasting(cause) for cause in _causes(error)):
        return False
    return isinstance(error, PASSING_ERRORS) or type(error).__name__ == "ClientPayloadError"


def _is_lasting(cause: BaseException) -> bool:
    """A name that no server has, or a certificate that is not trusted: of the endpoint's URL."""
    if isinstance(cause, socket.gaierror):
        return cause.errno == socket.EAI_NONAME
    return "CERTIFICATE_VERIFY_FAILED" in str(cause)


def client_error(error: BaseException) -> boto.ClientError | None:
    """The server's own answer behind an error, where there is one."""
    return next((cause for cause in _causes(error) if isinstance(cause, boto.ClientError)), None)


def code_of(error: BaseException) -> str:
    """The server's code of an error (NoSuchBucket, 403), empty where it is not the server's."""
    answer = client_error(error)
    return "" if answer is None else str(answer.response.get("Error", {}).get("Code", ""))


def in_words(error: BaseException) -> str:
    """The error as it came, on one line: the server's code and message, or its own text."""
    answer = client_error(error)
    if answer is None:
        return " ".join(str(error).split()) or type(error).__name__
    said = answer.response.get("Error", {})
    return " ".join(f"{said.get('Code', '')}: {said.get('Message', '')}".split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
