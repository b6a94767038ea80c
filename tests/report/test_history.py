"""The table of a training, and what its columns are."""

import csv
import io

import numpy as np
import pytest

from avader.report.history import columns, counts, from_csv, series, terms, to_csv, weights
from tests.report.histories import DEMO, history

EXTRA = {
    "contrast": lambda epoch: 1e-4 * epoch,
    "skipped_steps": lambda epoch: int(epoch == 3),
    "held_out_reconstruction": 9.5,
    "held_out_elbo": -3.0,
    "unused": 0.0,
}


def test_the_table_is_csv_and_comes_back_as_it_was():
    rows = history(DEMO, **EXTRA)
    text = to_csv(rows).decode()
    plain = list(csv.reader(io.StringIO(text)))
    assert plain[0] == list(rows[0])
    assert [line[1] for line in plain[1:]] == [row["phase"] for row in rows]
    back = from_csv(text)
    assert back == rows
    assert {name: type(v) for name, v in back[4].items()} == {
        name: type(v) for name, v in rows[4].items()
    }


def test_columns_that_come_later_are_empty_before():
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "contrast": 0.25}]
    assert to_csv(rows) == b"epoch,loss,contrast\n1,2.0,\n2,1.0,0.25\n"
    assert from_csv(to_csv(rows).decode()) == rows
    assert columns(rows) == ["epoch", "loss", "contrast"]
    np.testing.assert_array_equal(series(rows, "contrast"), [np.nan, 0.25])


@pytest.mark.parametrize("text", ["", "loss\n1.0\n", "epoch,loss\n1\n", "epoch,loss\n1,2,3\n"])
def test_what_is_no_table(text):
    with pytest.raises(ValueError, match="wanted"):
        from_csv(text)


def test_what_the_columns_are():
    rows = history(DEMO, **EXTRA)
    assert terms(rows) == [
        *("loss", "reconstruction", "unit_kl", "mixture_kl", "l2", "contrast", "elbo"),
    ]
    assert counts(rows) == ["skipped_steps"]
    assert weights(rows) == ["weight_unit_kl", "weight_mixture_kl"]


def test_what_is_all_zero_is_left_out():
    gamma = history(DEMO, 2)
    assert "mixture_kl" not in terms(gamma)
    assert weights(gamma) == ["weight_unit_kl"]
    assert counts(gamma) == []
