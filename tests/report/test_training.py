"""Curves of a training: what is drawn, where, and with the phases marked."""

import io
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from avader.report.training import (
    KINDS,
    Span,
    curves_png,
    kind_colours,
    labels,
    number_text,
    spans,
)
from tests.report.histories import DEMO, PAPER, history


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def coloured(png: bytes, colour: str) -> int:
    """Pixels of exactly this colour."""
    wanted = np.rint(255 * np.array(to_rgb(colour))).astype(int)
    return int((pixels(png) == wanted).all(axis=-1).sum())


def test_phases_are_read_off_the_rows():
    assert spans(history(DEMO)) == [
        Span("gamma", "", 1, 20),
        Span("annealing", "1", 21, 25),
        Span("static", "1", 26, 32),
        Span("annealing", "2", 33, 37),
        Span("static", "2", 38, 44),
    ]
    assert spans([{"epoch": 7, "phase": "warm up 3"}, {"epoch": 8, "phase": "warm up 3"}]) == [
        Span("warm up", "3", 7, 8)
    ]


def test_every_kind_of_phase_has_its_band():
    gamma, whole = curves_png(history(DEMO, 20)), curves_png(history(DEMO))
    for kind in ("annealing", "static"):
        assert coloured(gamma, KINDS[kind]) == 0
        assert coloured(whole, KINDS[kind]) > 500
    assert coloured(gamma, KINDS["gamma"]) > coloured(whole, KINDS["gamma"]) > 500


def test_an_unknown_kind_of_phase_has_a_colour_of_its_own():
    colours = kind_colours([Span("gamma", "", 1, 1), Span("other", "", 2, 3)])
    assert colours["other"] not in KINDS.values()
    rows = [row | {"phase": "pseudo-labels"} for row in history(DEMO, 3)]
    assert coloured(curves_png(rows), kind_colours(spans(rows))["pseudo-labels"]) > 500


@pytest.mark.parametrize(
    ("room", "wanted"),
    [
        (1.0, ["gamma", "annealing 1", "static 1", "annealing 2", "static 2"]),
        (0.05, ["gamma", "1", "2"]),
        (0.017, ["gamma", "1", "2"]),
        (0.001, []),
    ],
)
def test_names_of_phases_give_way_to_numbers_of_periods(room, wanted):
    assert [text for _, text in labels(spans(history(DEMO)), room=room)] == wanted


def test_a_period_is_named_at_its_middle():
    assert labels(spans(history(DEMO)), room=0.05)[1] == (26.5, "1")


def test_any_loss_term_has_a_panel():
    """A row of three panels more for three terms more; nothing for a term that is 0."""
    least = pixels(curves_png(history(DEMO)))
    more = history(DEMO, contrast=1e-4, pseudo_labels=3e5, held_out_elbo=-2.0)
    assert pixels(curves_png(more)).shape[0] > least.shape[0]
    np.testing.assert_array_equal(pixels(curves_png(history(DEMO, contrast=0.0))), least)


def test_held_out_values_are_drawn_beside_the_training_s():
    rows = history(DEMO, held_out_loss=lambda epoch: 130.0 / epoch)
    assert pixels(curves_png(rows)).shape == pixels(curves_png(history(DEMO))).shape
    assert curves_png(rows) != curves_png(history(DEMO))


@pytest.mark.parametrize(
    "rows",
    [
        history(DEMO, 1),
        history(DEMO, 2),
        history(PAPER, 350, reseeded=lambda epoch: epoch % 7),
        history(DEMO, loss=math.nan, unit_kl=lambda epoch: math.inf if epoch == 3 else 1.0),
        history(DEMO, loss=-4.0, reconstruction=1e-9, l2=1e12),
        [{"epoch": 1, "loss": 2.0}],
        [{"epoch": 1, "phase": "gamma"}],
    ],
    ids=["1", "2", "350", "not finite", "very different sizes", "bare", "nothing"],
)
def test_any_history_makes_a_picture_the_same_every_time(rows):
    png = curves_png(rows)
    assert png == curves_png(rows)
    assert pixels(png).std() > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (15000, "15,000"), (0.25, "0.25"), (3.2e-4, "3.2e-4"), (-1e-5, "-1e-5")],
)
def test_numbers_on_the_axes(value, text):
    assert number_text(value) == text
