"""TensorBoard's event files, as bytes: one a finished epoch.

A file is a function of the history up to its epoch, so a training that goes back to a checkpoint
writes the same files again and none twice. Nothing can be appended on S3, and TensorBoard keeps
reading a file it has open when another takes its name; it reads the files of a folder in order of
their names. The time of an event is the training's own, seconds from its start.
"""

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from avader.report.history import HELD_OUT, WEIGHT, Row

VERSION = "brain.Event:2"
SPEED = {"seconds", "images_per_second"}


def file_name(epoch: int) -> str:
    """The file of an epoch, from 1."""
    return f"events.out.tfevents.{epoch:06d}.avader"


def events(history: Sequence[Row], picture: bytes | None) -> bytes:
    """The event file of the last epoch of a history; picture: PNG of its phase's end, if any."""
    row = history[-1]
    step, time = int(row["epoch"]), sum(float(each["seconds"]) for each in history)
    values = [
        Summary.Value(tag=tag(name), simple_value=value)
        for name, value in row.items()
        if name not in ("epoch", "images") and isinstance(value, int | float)
    ]
    if picture is not None:
        values.append(Summary.Value(tag="phases", image=_image(picture)))
    return _records(
        [
            Event(wall_time=time, file_version=VERSION),
            Event(wall_time=time, step=step, summary=Summary(value=values)),
        ]
    )


def tag(name: str) -> str:
    """Where TensorBoard shows a column."""
    if name.startswith(HELD_OUT):
        return f"held_out/{name.removeprefix(HELD_OUT)}"
    if name.startswith(WEIGHT) or name == "learning_rate":
        return f"schedule/{name}"
    return f"speed/{name}" if name in SPEED else f"training/{name}"


def _image(png: bytes) -> Summary.Image:
    # Width and height follow the signature and the head of the first chunk.
    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)


def _records(messages: Sequence[Event]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        writer = RecordWriter(str(path))
        for message in messages:
            writer.write(message.SerializeToString(deterministic=True))
        writer.close()
        return path.read_bytes()
