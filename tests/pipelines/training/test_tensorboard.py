"""Event files, read by a reader of our own: TensorBoard's framing and its checksums."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from avader.pipelines.training.tensorboard import events, file_name, tag
from avader.report.figures import image_png
from tests.report.histories import DEMO, history


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read(data: bytes) -> list[Event]:
    found = []
    while data:
        (length,), head = struct.unpack("<Q", data[:8]), data[:8]
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == masked(head)
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def test_the_checksum_of_this_test_is_castagnoli_s():
    assert crc32c(b"123456789") == 0xE3069283


def test_an_epoch_is_one_event_after_the_version():
    rows = history(DEMO, 21, contrast=0.25, held_out_loss=3.0)
    version, event = read(events(rows, None))
    assert version.file_version == "brain.Event:2"
    assert event.step == 21
    assert event.wall_time == version.wall_time == 22.0  # 20 of 1 s and one of 2 s
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert values["training/contrast"] == 0.25
    assert values["held_out/loss"] == 3.0
    assert values["training/loss"] == pytest.approx(rows[-1]["loss"])
    assert not any("phase" in name or "epoch" in name for name in values)


def test_a_phase_s_end_has_its_picture():
    png = image_png([[[0.0, 1.0, 0.0]]])
    picture = read(events(history(DEMO, 3), png))[1].summary.value[-1]
    assert picture.tag == "phases"
    assert (picture.image.width, picture.image.height) == (3, 1)
    assert picture.image.encoded_image_string == png


def test_the_same_history_makes_the_same_bytes():
    assert events(history(DEMO), None) == events(history(DEMO), None)


def test_files_are_in_the_order_of_their_names():
    names = [file_name(epoch) for epoch in (1, 9, 10, 350, 12_000)]
    assert names == sorted(names)
    assert all("tfevents" in name for name in names)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("loss", "training/loss"),
        ("weight_unit_kl", "schedule/weight_unit_kl"),
        ("learning_rate", "schedule/learning_rate"),
        ("seconds", "speed/seconds"),
        ("held_out_loss", "held_out/loss"),
    ],
)
def test_where_a_column_is_shown(name, where):
    assert tag(name) == where
