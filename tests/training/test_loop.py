"""The loop in one process: it learns, it repeats itself, it goes on, it stops where it must."""

import itertools

import numpy as np
import pytest
import torch

from avader.errors import TrainingError
from avader.model.schedule import at, total_epochs
from avader.training import summary
from avader.training.data import MemoryImages, Part, Share, held_out_rows
from avader.training.loop import Watch, batch_of, means, train, train_epoch
from avader.training.mixture import effective_number, start_mixture
from avader.training.objective import TERMS, Objective, needs_views
from avader.training.state import Progress, TrainingState, fresh_state
from avader.training.summary import summarise
from avader.training.task import Task
from tests.training.ranks import Threads
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
    train(
        state,
        Task(RECIPE, MemoryImages(images())),
        Watch(epoch=lambda state: epochs.append(state.epoch)),
    )
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
    summary = summarise(trained[0], Task(RECIPE, MemoryImages(images())))
    assert summary.occupancy == [30, 30]
    assert summary.effective_components == pytest.approx(2.0)
    assert np.isfinite(summary.mean_log_likelihood)
    assert summary.precision == "float32"


def test_same_seed_same_training(trained):
    again = begun()
    train(again, Task(RECIPE, MemoryImages(images())), Watch())
    assert figures(again.history) == figures(trained[0].history)
    for name, value in trained[0].model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_other_seed_other_training(trained):
    other = begun(changed(seed=5))
    train_epoch(other, Task(changed(seed=5), MemoryImages(images())), Watch())
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
        train(begun(), Task(RECIPE, MemoryImages(images())), Watch(epoch=save))
    state = fresh_state(changed(seed=99), mean_pixel=0.9)
    state.restore(saved[0])
    assert state.epoch == stop
    train(state, Task(RECIPE, MemoryImages(images())), Watch())
    assert figures(state.history) == figures(trained[0].history)
    for name, value in trained[0].model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name


def test_checkpoint_of_another_version():
    state = begun()
    data = state.to_bytes()
    import avader.training.state as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VERSION", 3)
        with pytest.raises(TrainingError, match="checkpoint: wanted version 3, got 2"):
            state.restore(data)


def test_the_mixture_is_frozen_in_the_gamma_phase():
    state = begun()
    before = [p.detach().clone() for p in (state.model.mixture_means, state.model.mixture_logits)]
    train_epoch(state, Task(RECIPE, MemoryImages(images())), Watch())
    after = [state.model.mixture_means, state.model.mixture_logits]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_first_mixture_survives_the_first_annealing_epoch():
    state, task = begun(), Task(RECIPE, MemoryImages(images()))
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
        start_mixture(state, Task(recipe, MemoryImages(images())))
        mixtures.append(state.model.mixture())
    assert all(torch.equal(one, other) for one, other in zip(*mixtures, strict=True))


def test_initial_spread_widens_by_the_encoders_variance():
    found = {}
    for spread in (False, True):
        recipe = changed(mixture={"initial_spread": spread, "components": 1})
        state = begun(recipe)
        start_mixture(state, Task(recipe, MemoryImages(images())))
        found[spread] = state.model.mixture().variances.detach().numpy()
    # An untrained encoder's posterior has a variance of about 1.
    np.testing.assert_allclose(found[True] - found[False], 1.0, rtol=0.2)


OURS = changed(
    contrast={"weight": 0.5, "projection": 5, "views": {"rotation": 20.0, "shift": 2.0}},
    agreement=0.3,
    schedule={"pseudo_labels": 0.2, "gamma_epochs": 1},
    mixture={"scaled": 50.0},
)


def gradient_of(splits, recipe, epoch):
    """Gradients and terms of one step by ranks that hold these slices of a batch, each a thread."""
    rows, results = np.array([8, 3, 20, 41, 7, 0]), {}
    source = MemoryImages(images())
    world = Threads(len(splits))
    states = [begun(recipe) for _ in splits]  # one after another: they seed torch

    def rank(number):
        state = states[number]
        state.epoch = epoch
        state.partition = torch.arange(60) % 2
        with torch.no_grad():
            state.model.mixture_means[1] += 0.5
        group = world.group(number)
        own = rows[splits[number]]
        part = Part(Share(own, splits[number].start, len(rows)), source.pixels[own])
        weights = at(recipe.schedule, epoch)
        objective = Objective(recipe, weights, state.model, state.head, group)
        views = 2 if needs_views(recipe, weights) else 1
        outcome = objective(batch_of(state, recipe, part, views=views))
        outcome.loss.backward()
        named = dict(state.model.named_parameters()) | dict(state.head.named_parameters())
        gradients = {n: p.grad.double() for n, p in named.items() if p.grad is not None}
        results[number] = gradients | {"terms": outcome.terms}

    world.run(rank)
    parts = [results[number] for number in range(len(splits))]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("recipe", [RECIPE, OURS], ids=["paper", "ours"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_unequal_ranks_add_up_to_the_whole_batch(recipe, epoch):
    """Shares of 3, 2 and 1 rows give the gradient of one rank with all 6; L2 counts once."""
    whole = gradient_of([slice(0, 6)], recipe, epoch)
    parts = gradient_of([slice(0, 3), slice(3, 5), slice(5, 6)], recipe, epoch)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=2e-5)


NORMALISED = OURS.model_copy(
    update={
        "network": OURS.network.model_copy(
            update={
                "normalisation": "group",
                "reduction": "stride",
                "upsampling": "pixel-shuffle",
                "blocks": "residual",
            }
        )
    }
)


@pytest.mark.parametrize("recipe", [RECIPE, OURS, NORMALISED], ids=["paper", "ours", "normalised"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_empty_share_adds_nothing(recipe, epoch):
    whole = gradient_of([slice(0, 6)], recipe, epoch)
    parts = gradient_of([slice(0, 6), slice(6, 6)], recipe, epoch)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=2e-5)


def test_batch_larger_than_the_data():
    recipe = changed(optimiser={"batch": 1000})
    row = train_epoch(begun(recipe), Task(recipe, MemoryImages(images(10))), Watch())
    assert row["images"] == 10


def test_watch_sees_every_batch():
    seen = []
    watch = Watch(batch=lambda state: seen.append((state.progress.batches, state.progress.images)))
    train_epoch(begun(), Task(RECIPE, MemoryImages(images())), watch)
    assert seen == [(1, 15), (2, 30), (3, 45), (4, 60)]


def test_no_images():
    with pytest.raises(TrainingError, match="at least one image"):
        train_epoch(begun(), Task(RECIPE, MemoryImages(images()[:0])), Watch())


def poisoned(state, batches):
    """Make the gradient of these batches, by number from 1, NaN."""
    seen = itertools.count(1)

    def hook(gradient):
        return gradient * float("nan") if next(seen) in batches else gradient

    state.model.encoder.heads.weight.register_hook(hook)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    state = begun()
    poisoned(state, {2})
    before, after = [], []

    def note(state):
        (before if state.progress.batches == 1 else after).append(
            state.model.encoder.heads.weight.detach().clone()
        )

    row = train_epoch(state, Task(RECIPE, MemoryImages(images())), Watch(batch=note))
    assert (row["skipped"], row["images"]) == (1, 45)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(after[0], after[1])
    assert all(torch.isfinite(p).all() for p in state.parameters())


def test_too_many_skipped_batches_stop_with_a_reason():
    recipe = changed(optimiser={"max_skipped": 1})
    state = begun(recipe)
    poisoned(state, {1, 3})
    wanted = r"at most 1 batches .* got 2 by batch 3 of epoch 1 \(gamma\).*learning-rate"
    with pytest.raises(TrainingError, match=wanted):
        train_epoch(state, Task(recipe, MemoryImages(images())), Watch())


def test_a_starved_component_comes_back():
    recipe = changed(mixture={"least_share": 0.1, "components": 3}, schedule={"gamma_epochs": 4})
    state, task = begun(recipe), Task(recipe, MemoryImages(images()))
    for _ in range(4):
        state.history.append(train_epoch(state, task, Watch()))
        state.epoch += 1
    start_mixture(state, task)
    with torch.no_grad():  # far from everything: nothing is nearest to it
        state.model.mixture_means[1] += 100.0
    assert summarise(state, task).occupancy[1] == 0
    row = train_epoch(state, task, Watch())
    assert row["reseeded"] == 1
    assert summarise(state, task).occupancy[1] > 3
    state.epoch += 1
    assert train_epoch(state, task, Watch())["reseeded"] == 0
    state.epoch = total_epochs(recipe.schedule) - 1
    with torch.no_grad():
        state.model.mixture_means[1] += 100.0
    row = train_epoch(state, task, Watch())  # nothing would train it any more
    assert (row["starving"], row["reseeded"]) == (1, 0)


def test_held_out_images_are_measured_and_not_trained_on():
    pixels = images()
    held = held_out_rows(60, share=0.25, seed=4)
    rows, states = [], []
    for noise in (0, 1):
        changed_pixels = pixels.copy()
        changed_pixels[held] ^= noise  # what is held out changes no weight
        task = Task(RECIPE, MemoryImages(changed_pixels, held_out=held))
        states.append(begun())
        rows.append(train_epoch(states[-1], task, Watch()))
    assert rows[0]["images"] == 45
    assert rows[0]["held_out_reconstruction"] != rows[1]["held_out_reconstruction"]
    for one, other in zip(states[0].parameters(), states[1].parameters(), strict=True):
        assert torch.equal(one, other)
    total = rows[0]["held_out_reconstruction"] + rows[0]["held_out_kl"]
    assert rows[0]["held_out_bound"] == pytest.approx(-total)


def test_ours_learns_and_goes_on_in_mid_epoch_bit_for_bit(monkeypatch):
    task = Task(OURS, MemoryImages(images()))
    whole, saved = begun(OURS), []

    def save(state):
        if state.epoch == 2 and state.progress.batches == 2:
            saved.append(state.to_bytes())

    train(whole, task, Watch(batch=save))
    state = fresh_state(OURS, mean_pixel=0.9)
    with monkeypatch.context() as elsewhere:  # as of a model on a GPU
        elsewhere.setattr(TrainingState, "device", torch.device("meta"))
        state.restore(saved[0])
    assert state.progress.batches == 2
    assert state.progress.totals.device.type == "cpu"
    train(state, task, Watch())
    assert figures(state.history) == figures(whole.history)
    for one, other in zip(whole.parameters(), state.parameters(), strict=True):
        assert torch.equal(one, other)
    first, last = whole.history[0], whole.history[-1]
    assert last["contrast"] < first["contrast"]
    assert "agreement" in last
    assert any("pseudo_labels" in row for row in whole.history)


def test_the_number_of_components_is_found():
    recipe = changed(mixture={"components": "auto", "most_components": 6, "initial_rows": 60})
    state, task = begun(recipe), Task(recipe, MemoryImages(images()))
    assert state.model.components == 6
    train(state, task, Watch())
    assert state.model.components < 6
    again = begun(recipe)
    again.restore(state.to_bytes())
    assert again.model.components == state.model.components


def test_masks_weigh_what_lies_outside():
    inside = np.zeros((60, 16, 16), bool)
    inside[:, 4:12, 4:12] = True
    masks = np.packbits(inside.reshape(60, -1), axis=1)
    recipe = changed(outside_weight=0.25, flips=False)
    source = MemoryImages(images(), masks)
    part = next(source.some(np.array([3, 5]), 2))
    weight = batch_of(begun(recipe), recipe, part, views=1).weight
    assert weight.shape == (2, 1, 16, 16)
    assert weight[0, 0, 8, 8] == 1.0
    assert weight[0, 0, 0, 0] == 0.25
    assert weight.sum() == 2 * (64 + 0.25 * 192)


def test_more_components_than_images():
    recipe = changed(mixture={"components": 12})
    with pytest.raises(TrainingError, match="at least 12 latents"):
        start_mixture(begun(recipe), Task(recipe, MemoryImages(images(8))))


def test_cross_entropy_and_bfloat16_and_bands():
    recipe = changed(
        loss="cross-entropy", precision="bfloat16", network={"output": "sigmoid", "bands": 3}
    )
    pixels = np.repeat(images(), 3, axis=1)
    state = begun(recipe)
    train(state, Task(recipe, MemoryImages(pixels)), Watch())
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


@pytest.mark.parametrize(("least", "hungry"), [(0.0, 2), (0.5, 3), (0.05, 1)])
def test_starving_components_are_counted(least, hungry):
    """Shares of an equal one: 3.6, 0.3, 0.08, 0.02; a tenth counts where the recipe has none."""
    recipe = changed(mixture={"least_share": least})
    totals = torch.zeros(len(TERMS) + 4, dtype=torch.float64)
    totals[len(TERMS) :] = torch.tensor([90.0, 7.5, 2.0, 0.5])
    progress = Progress(totals, images=100)
    assert means(progress, recipe, at(recipe.schedule, 3))["starving"] == hungry
    assert means(progress, recipe, at(recipe.schedule, 0))["starving"] == 0


def test_a_summary_computes_some_densities_at_a_time(trained, monkeypatch):
    """(N, K, D) of all images would be more than the images themselves."""
    state, _ = trained
    task = Task(RECIPE, MemoryImages(images()))
    whole, seen = summarise(state, task), []
    for name in ("responsibilities", "log_likelihood"):
        compute = getattr(summary, name)

        def watched(z, mixture, compute=compute):
            seen.append(len(z))
            return compute(z, mixture)

        monkeypatch.setattr(summary, name, watched)
    monkeypatch.setattr(summary, "ROWS", 7)
    assert summarise(state, task) == whole
    assert max(seen) == 7
    assert sum(seen) == 2 * 60


def test_terms_that_an_epoch_has_not_are_left_out():
    recipe = changed(contrast={"weight": 0.5, "fades": True}, flips=True)
    state = begun(recipe)
    train(state, Task(recipe, MemoryImages(images())), Watch())
    for row in state.history:
        assert ("contrast" in row) == (row["phase"] == "gamma")
        assert "agreement" not in row
