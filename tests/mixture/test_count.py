"""The number of components: known mixtures, what the batches agree on, and hard cases."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from avader.errors import InputError
from avader.mixture.count import Count, count_components

D = 6


def blobs(components, rows=4000):
    """Gaussians at least 8 standard deviations apart."""
    centres = np.zeros((components, D))
    centres[np.arange(components), np.arange(components) % D] = 8.0 * (
        1 + np.arange(components) // D
    )
    return make_blobs(rows, centers=centres, cluster_std=1.0, random_state=components)[0]


@pytest.mark.parametrize("components", [1, 2, 5, 9])
def test_separate_gaussians_are_counted(components):
    found = count_components(blobs(components), most=15, seed=0, batches=10, batch_rows=800)
    assert found.components == components
    assert found.counts.count(components) >= 9
    assert found.agreement == 1
    assert len(found.counts) == 10


def test_unequal_weights_and_widths():
    random = np.random.default_rng(0)
    which = random.choice(3, 5000, p=[0.75, 0.2, 0.05])
    latents = 10.0 * np.eye(3, D)[which] + np.array([2.0, 0.5, 1.0])[which, None] * (
        random.standard_normal((5000, D))
    )
    found = count_components(latents.astype(np.float32), most=10, seed=0, batches=9)
    assert found.components == 3
    # The threshold is on the weight: above the smallest one's it is no longer counted.
    without = count_components(latents, most=10, seed=0, batches=5, threshold=0.08)
    assert without.components == 2


def test_same_latents_and_seed_same_counts():
    latents = np.random.default_rng(0).uniform(size=(600, D))
    settings = {"most": 12, "batches": 4, "batch_rows": 300}
    first = count_components(latents, seed=5, **settings)
    assert first == count_components(latents, seed=5, **settings)


def test_what_is_said():
    found = Count(counts=(4, 5, 5, 9, 6, 5), batch_rows=1000, most=30)
    assert found.components == 5
    assert found.agreement == pytest.approx(5 / 6)
    assert found.line() == (
        "5 components: the median of 6 batches of 1,000 rows (4 to 9; 83% within 1 of it)"
    )
    assert Count((4, 7), 10, 30).components == 4


def test_as_many_as_they_began_with():
    found = count_components(blobs(9), most=4, seed=0, batches=3, batch_rows=400)
    assert found.components == 4
    assert found.line().endswith("all they began with: raise --mixture.most-components")


def test_fewer_rows_than_a_batch_wants():
    found = count_components(blobs(2, rows=400), most=8, seed=0, batches=5)
    assert found.batch_rows == 400
    assert found.components == 2


def test_dimensions_that_say_nothing():
    settings = {"most": 5, "seed": 0, "batches": 3, "batch_rows": 400}
    assert count_components(blobs(2) * [1, 1, 0, 0, 0, 0], **settings).components == 2
    assert count_components(np.full((50, 2), 0.1), **settings).components == 1


@pytest.mark.parametrize(("rows", "batch_rows"), [(7, 100), (100, 7)])
def test_fewer_rows_than_components(rows, batch_rows):
    with pytest.raises(InputError, match=r"at least 8 latents in a batch, .* got 7"):
        count_components(np.zeros((rows, 2)), most=8, seed=0, batch_rows=batch_rows)


def test_no_rows_and_rows_that_are_not_finite():
    with pytest.raises(InputError, match="got 0"):
        count_components(np.zeros((0, 2)), most=8, seed=0)
    latents = np.zeros((10, 2))
    latents[3] = np.inf
    with pytest.raises(InputError, match="1 of 10 rows that are not"):
        count_components(latents, most=8, seed=0)
