"""Changes to bytes, each from random numbers alone."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

Random = np.random.Generator
CARD = 80
HEAD, TAIL = 800, 4000  # where headers are: at the start, and in Parquet at the end
SIDES = [0, 1, 16, 17, 24, 25, 100, 4096, 7000, 9000, 60_000, 2**31 - 1, 2**32 - 1]
EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1]
WORDS = {
    "jpeg": [
        *(b"\xff" + bytes([marker]) for marker in b"\xd8\xd9\xda\xc0\xc2\xc4\xdb\xee\x00"),
        b"\xff\xdd\x00\x04",
        b"\xff\xe1\x00\x08Exif",
    ],
    "png": [
        *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT"),
        *(b"iCCP", b"gAMA", b"\x10\x02", b"\x08\x06", b"\x01\x03"),
    ],
    "fits": [
        *(b"END     ", b"XTENSION= 'IMAGE   '", b"XTENSION= 'BINTABLE'", b"NAXIS   =", b"'", b"T"),
        *(b"CONTINUE  '", b"HIERARCH ", b"-1", b"1E400", b"NAN", b"9" * 30, b"ZIMAGE  = "),
        b"\x00\x00\xc0\x7f",
    ],
    "parquet": [
        *(b"PAR1", b"PARE", b"\x15\x00", b"\x15\x02", b"\x19\x0c", b"\x26\x00", b"\xff" * 9),
        *(b"\x00" * 8, b"ARROW:schema", b"\xff\xff\xff\xff\x0f", b"\x80" * 9 + b"\x01"),
    ],
}
VALUES = ["0", "-1", "1", "999", "1000", "99999", "2147483647", "9223372036854775807", "9" * 60]
VALUES += ["24", "25", "4096", "7000", "T", "F", "'x'", "''", "1.5", "-1.0E400", "NaN"]
VALUES += ["(1, 2)", "", "8", "-64", "16"]
KEYS = ["BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "BSCALE", "BZERO"]
KEYS += ["BLANK", "SATURATE", "EXTNAME", "XTENSION", "ZIMAGE", "GROUPS", "TFIELDS", "ZNAXIS1"]


def mutate(data: bytes, random: Random, family: str, others: list[bytes]) -> bytes:
    """One to eight changes to a file of a family; others: files that pieces are taken from."""
    changed = bytearray(data)
    for _ in range(int(random.choice([1, 1, 1, 2, 3, 8]))):
        if not changed:
            break
        CHANGES[random.integers(len(CHANGES))](changed, random, family, others)
    if family == "png" and random.random() < 0.6:
        return with_checksums(bytes(changed))
    return bytes(changed)


def _place(data: bytearray, random: Random, family: str) -> int:
    """An offset, often among the headers."""
    size, draw = len(data), random.random()
    if family == "parquet":
        back = int(random.integers(min(size, TAIL) if draw < 0.3 else size))
        return size - 1 - back
    return int(random.integers(min(size, HEAD) if draw < 0.5 else size))


def _block(data: bytes | bytearray, random: Random, longest: int = 60) -> bytes:
    start = int(random.integers(len(data)))
    return bytes(data[start : start + int(random.integers(1, longest))])


def _flip(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    for _ in range(int(random.integers(1, 9))):
        data[_place(data, random, family)] ^= 1 << int(random.integers(8))


def _overwrite(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    at, piece = _place(data, random, family), random.bytes(int(random.integers(1, 17)))
    data[at : at + len(piece)] = piece


def _word(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    at = _place(data, random, family)
    word = WORDS[family][random.integers(len(WORDS[family]))]
    data[at : at + len(word) * int(random.integers(2))] = word


def _extreme(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    """A number of 1 to 8 bytes at an end of its range, of either byte order."""
    at, length = _place(data, random, family), int(2 ** random.integers(4))
    value = EXTREMES[random.integers(len(EXTREMES))] % 256**length
    data[at : at + length] = value.to_bytes(length, "big" if random.random() < 0.5 else "little")


def _delete(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    at = _place(data, random, family)
    del data[at : at + int(random.integers(1, 60))]


def _repeat(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    """A block again, sometimes thousands of times."""
    at, block = _place(data, random, family), _block(data, random)
    data[at:at] = block * int(random.choice([1, 2, 30, 3000], p=[0.6, 0.25, 0.1, 0.05]))


def _swap(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    first, second = sorted(_place(data, random, family) for _ in range(2))
    length = min(int(random.integers(1, 60)), second - first, len(data) - second)
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = other, one


def _truncate(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    if random.random() < 0.4:
        del data[int(random.integers(len(data))) :]


def _splice(data: bytearray, random: Random, family: str, others: list[bytes]) -> None:
    """A piece of another file, inserted or in place of as many bytes."""
    at, other = _place(data, random, family), others[random.integers(len(others))]
    piece = _block(other, random, longest=400)
    data[at : at + len(piece) * int(random.integers(2))] = piece


def _card(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    """A FITS card put among others, or over one; digits of a header elsewhere."""
    if family != "fits":
        digits = [at for at, byte in enumerate(data[:1200]) if 48 <= byte <= 57]
        if digits:
            data[random.choice(digits)] = random.choice(list(b"0123456789-. "))
        return
    key, value = KEYS[random.integers(len(KEYS))], VALUES[random.integers(len(VALUES))]
    found = data.find(f"{key:<8}=".encode())
    at = found if found >= 0 and random.random() < 0.8 else CARD * int(random.integers(30))
    data[at : at + CARD] = f"{key:<8}= {value:>20}".ljust(CARD).encode()[:CARD]


def _size(data: bytearray, random: Random, family: str, _: list[bytes]) -> None:
    """Sides of a PNG or JPEG as its header tells them; elsewhere a large number of Thrift."""
    width, height = (int(side) for side in random.choice(SIDES, 2))
    if family == "png":
        data[16:24] = struct.pack(">II", width, height)
    elif family == "jpeg":
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        data[at : at + 4] = struct.pack(">HH", width % 2**16, height % 2**16)
    elif family == "parquet":
        at = _place(data, random, family)
        data[at : at + 5] = b"\xff\xff\xff\xff" + bytes([int(random.integers(16))])


CHANGES: list[Callable[[bytearray, Random, str, list[bytes]], None]] = [
    _flip,
    _overwrite,
    _word,
    _extreme,
    _delete,
    _repeat,
    _swap,
    _truncate,
    _splice,
    _card,
    _size,
]


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, as far as their lengths lead through the file."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        stop = at + 8 + struct.unpack(">I", data[at : at + 4])[0]
        if stop + 4 > len(data):
            break
        out += [data[at:stop], struct.pack(">I", zlib.crc32(data[at + 4 : stop]))]
        at = stop + 4
    return b"".join([*out, data[at:]])
