"""What storage refuses for good, in words: what was wanted, what came, what to do."""

import errno

from botocore.exceptions import NoCredentialsError, PartialCredentialsError

from avader.io.retry import code_of, in_words

PERMISSION = {
    "InvalidAccessKeyId": "the server does not know AWS_ACCESS_KEY_ID: give credentials that "
    "belong to this AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not the one of AWS_ACCESS_KEY_ID: correct "
    "the credentials",
    "RequestTimeTooSkewed": "the clocks of this machine and the server differ: set this one",
    **dict.fromkeys(
        ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        "AWS_SESSION_TOKEN is no longer valid: get new credentials",
    ),
}
FULL = {errno.ENOSPC, errno.EDQUOT}
FULL_CODES = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
CHANGED = {"PreconditionFailed", "412"}


def refusal(error: BaseException, *, verb: str, where: str, on_s3: bool) -> str:
    """The message of an error that trying again does not mend.

    verb: read, write or remove; where: the URI without credentials.
    """
    hint = (_s3_hint if on_s3 else _local_hint)(error, verb=verb, where=where)
    return f"cannot {verb} {where}: {in_words(error)}; {hint}"


def _s3_hint(error: BaseException, *, verb: str, where: str) -> str:
    code = code_of(error)
    if code in PERMISSION:
        return PERMISSION[code]
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, PermissionError):
        return (
            f"these credentials may not {verb} there: get the permission, or check "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code == "NoSuchBucket":
        bucket = where.removeprefix("s3://").partition("/")[0]
        return f"there is no bucket {bucket} at AWS_ENDPOINT_URL: check its name, or make it"
    if isinstance(error, FileNotFoundError):
        return "there is nothing by this name: check bucket and path"
    if code in FULL_CODES:
        return "the storage is full: make room, then repeat the command"
    if code in CHANGED or type(error).__name__ == "FileExpired":
        return "it was replaced while it was read: repeat the command"
    return "check the bucket, AWS_ENDPOINT_URL and the credentials"


def _local_hint(error: BaseException, *, verb: str, where: str) -> str:
    number = getattr(error, "errno", None)
    if number in FULL:
        return "the disk is full: make room there, then repeat the command"
    if number in DENIED:
        return f"this user may not {verb} there: check the path and its permissions"
    return "check the path and its permissions"
