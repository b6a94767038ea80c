"""The loop in one process: it learns, it repeats itself, it goes on, it stops where it must."""

import numpy as np
import pytest
import torch

from avader.errors import InputError
from avader.training.data import Share
from avader.training.group import Group
from avader.training.loop import (
    Task,
    TrainingError,
    Watch,
    effective_number,
    start_mixture,
    train,
    train_epoch,
)
from avader.training.state import TrainingState, fresh_state
from avader.training.summary import summarise
from tests.training.tiny import EPOCHS, RECIPE, changed, images

TIMES = {"seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begun(recipe=RECIPE) -> TrainingState:
    return fresh_state(recipe, mean_pixel=0.2)


def figures(history):
    return [{name: row[name] for name in row if name not in TIMES} for row in history]


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    state, epochs = begun(), []
    train(state, Task(RECIPE, images()), Watch(epoch=lambda state: epochs.append(state.epoch)))
    return state, epochs


def test_all_phases_run_to_the_end(trained):
    state, epochs = trained
    assert epochs == list(range(1, EPOCHS + 1))
    names = [row["phase"] for row in state.history]
    assert names == (
        ["gamma"] * 3 + ["annealing 1"] * 2 + ["static 1"] + ["annealing 2"] * 2 + ["static 2"]
    )
    assert all(
        np.isfinite(value)
        for row in figures(state.history)
        for value in row.values()
        if not isinstance(value, str)
    )


def test_the_loss_falls(trained):
    gamma = [row["loss"] for row in trained[0].history[:3]]
    assert gamma[2] < 0.85 * gamma[0]
    rows = trained[0].history
    assert rows[-1]["loss"] < rows[4]["loss"]  # the same weights at annealing's end and later


def test_loss_is_the_sum_of_its_terms(trained):
    for row in trained[0].history:
        wanted = row["reconstruction"] + row["l2"]
        wanted += row["weight_unit_kl"] * row["unit_kl"]
        wanted += row["weight_mixture_kl"] * row["mixture_kl"]
        assert row["loss"] == pytest.approx(wanted, rel=1e-9)


def test_two_kinds_of_images_make_two_components(trained):
    summary = summarise(trained[0], Task(RECIPE, images()))
    assert summary.occupancy == [30, 30]
    assert summary.effective_components == pytest.approx(2.0)
    assert np.isfinite(summary.mean_log_likelihood)


def test_same_seed_same_training(trained):
    again = begun()
    train(again, Task(RECIPE, images()), Watch())
    assert figures(again.history) == figures(trained[0].history)
    for name, value in trained[0].model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_other_seed_other_training(trained):
    other = begun(changed(seed=5))
    train_epoch(other, Task(changed(seed=5), images()), Watch())
    assert not torch.equal(other.model.encoder.heads.weight, begun().model.encoder.heads.weight)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_training_that_goes_on_is_the_same(trained, stop):
    """Stopped before the first mixture, right before it, and in a period of annealing."""

    class Stopped(Exception):  # noqa: N818
        pass

    saved = []

    def save(state):
        if state.epoch == stop:
            saved.append(state.to_bytes())
            raise Stopped

    with pytest.raises(Stopped):
        train(begun(), Task(RECIPE, images()), Watch(epoch=save))
    state = fresh_state(changed(seed=99), mean_pixel=0.9)
    state.restore(saved[0])
    assert state.epoch == stop
    train(state, Task(RECIPE, images()), Watch())
    assert figures(state.history) == figures(trained[0].history)
    for name, value in trained[0].model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name


def test_checkpoint_of_another_version():
    state = begun()
    data = state.to_bytes()
    import avader.training.state as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VERSION", 2)
        with pytest.raises(ValueError, match="checkpoint: wanted version 2, got 1"):
            state.restore(data)


def test_the_mixture_is_frozen_in_the_gamma_phase():
    state = begun()
    before = [p.detach().clone() for p in (state.model.mixture_means, state.model.mixture_logits)]
    train_epoch(state, Task(RECIPE, images()), Watch())
    after = [state.model.mixture_means, state.model.mixture_logits]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_first_mixture_survives_the_first_annealing_epoch():
    state, task = begun(), Task(RECIPE, images())
    for _ in range(3):
        state.history.append(train_epoch(state, task, Watch()))
        state.epoch += 1
    start_mixture(state, task)
    first = [part.detach().clone() for part in state.model.mixture()]
    train_epoch(state, task, Watch())
    steps = 4  # of Adam, each of at most about a learning rate
    moved = (state.model.mixture_means - first[1]).abs().max().item()
    assert 0 < moved < 2 * steps * 5e-3
    torch.testing.assert_close(state.model.mixture().variances, first[2], rtol=0.1, atol=1e-3)
    torch.testing.assert_close(state.model.mixture().log_weights, first[0], rtol=0, atol=0.1)


def test_first_mixture_of_a_sample_is_one_of_its_seed():
    recipe = changed(mixture={"initial_rows": 20})
    mixtures = []
    for _ in range(2):
        state = begun(recipe)
        start_mixture(state, Task(recipe, images()))
        mixtures.append(state.model.mixture())
    assert all(torch.equal(one, other) for one, other in zip(*mixtures, strict=True))


def test_initial_spread_widens_by_the_encoders_variance():
    found = {}
    for spread in (False, True):
        recipe = changed(mixture={"initial_spread": spread, "components": 1})
        state = begun(recipe)
        start_mixture(state, Task(recipe, images()))
        found[spread] = state.model.mixture().variances.detach().numpy()
    # An untrained encoder's posterior has a variance of about 1.
    np.testing.assert_allclose(found[True] - found[False], 1.0, rtol=0.2)


def gradient_of(group_rows, monkeypatch, batch):
    """Gradients of one step when ranks hold these rows: all ranks' sums, added up."""
    sums = {}
    for rows in group_rows:
        state = begun()
        task = Task(RECIPE, images(), Group(rank=0, world=len(group_rows)))
        monkeypatch.setattr(Group, "add", lambda self, tensors: None)
        monkeypatch.setattr(state.optimiser, "step", lambda: None)
        from avader.model.schedule import at
        from avader.training.loop import _prepare, _step

        _prepare(state, at(RECIPE.schedule, 0), 1e-3)
        _step(state, task, at(RECIPE.schedule, 0), Share(rows, batch))
        for name, parameter in state.model.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad.double()
    return sums


def test_unequal_ranks_add_up_to_the_whole_batch(monkeypatch):
    """Shares of 5, 1 and 0 rows give the gradient of one rank with all 6; L2 counts once."""
    rows = np.array([8, 3, 20, 41, 7, 0])
    whole = gradient_of([rows], monkeypatch, 6)
    parts = gradient_of([rows[:5], rows[5:], rows[6:]], monkeypatch, 6)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)


def test_batch_larger_than_the_data():
    recipe = changed(optimiser={"batch": 1000})
    row = train_epoch(begun(recipe), Task(recipe, images(10)), Watch())
    assert row["images"] == 10


def test_watch_sees_every_batch():
    seen = []
    train_epoch(begun(), Task(RECIPE, images()), Watch(batch=lambda state, done: seen.append(done)))
    assert seen == [15, 30, 45, 60]


def test_no_images():
    with pytest.raises(TrainingError, match="at least one image"):
        train_epoch(begun(), Task(RECIPE, images()[:0]), Watch())


def test_a_loss_that_is_not_finite_stops_with_a_reason():
    pixels = images().astype(np.float16) / 255
    pixels[10] = np.nan
    with pytest.raises(TrainingError, match=r"wanted a finite loss, got .* epoch 1 \(gamma\)"):
        train_epoch(begun(), Task(RECIPE, pixels), Watch())


def test_more_components_than_images():
    recipe = changed(mixture={"components": 12})
    with pytest.raises(InputError, match="at least 12 latents"):
        start_mixture(begun(recipe), Task(recipe, images(8)))


def test_cross_entropy_and_bfloat16_and_bands():
    recipe = changed(
        loss="cross-entropy", precision="bfloat16", network={"output": "sigmoid", "bands": 3}
    )
    pixels = np.repeat(images(), 3, axis=1)
    state = begun(recipe)
    train(state, Task(recipe, pixels), Watch())
    losses = [row["reconstruction"] for row in state.history]
    assert losses[2] < losses[0]
    assert state.model.encoder.heads.weight.dtype == torch.float32


@pytest.mark.parametrize("output", ["relu", "sigmoid"])
def test_the_output_starts_at_the_mean_pixel(output):
    recipe = changed(network={"output": output})
    state = fresh_state(recipe, mean_pixel=0.3)
    image = state.model.decode(torch.zeros(1, 3))
    assert image.mean().item() == pytest.approx(0.3, abs=1e-6)


def test_effective_number():
    assert effective_number([5.0, 0.0, 0.0]) == pytest.approx(1.0)
    assert effective_number([2.0, 2.0, 2.0]) == pytest.approx(3.0)
