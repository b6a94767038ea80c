"""`tune` on Ray Tune: to the best recipe, early ends, on after kills, refusals."""

import csv
import logging
import os
import signal
import subprocess
import sys
import threading
import tomllib

import numpy as np
import pytest
import tomlkit

from avader.config import TrainSettings, TuneSettings, recipe_settings
from avader.errors import InputError, TrainingError
from avader.io import storage
from avader.io.models import read_model
from avader.pipelines import train, tune
from avader.pipelines.tuning.records import (
    Record,
    best_of,
    best_toml,
    read_records,
    take_begun,
    write_begun,
    write_record,
)
from avader.pipelines.tuning.search import TPE, distributions, early_stopping
from avader.pipelines.tuning.trial import trial_folder, values_name
from avader.recipe import Recipe
from tests.pipelines.packed import write_packed
from tests.processes import descendants, wait_for
from tests.training.tiny import EPOCHS, RECIPE, changed, images

RATES = {"optimiser.learning_rate": {"low": 1e-6, "high": 5e-3, "log": True}}
SEARCHED = changed(search=RATES)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images())


def settings(data: str, out, recipe=SEARCHED, **given) -> TuneSettings:
    values = {"trials": 4, "workers": 2, "device": "cpu", "recipe": "tiny.toml"}
    return TuneSettings(data=data, out=str(out), **recipe.model_dump(), **(values | given))


@pytest.fixture(scope="module")
def found(data, ray_session, tmp_path_factory):
    """A whole search: its folder and what was said."""
    out, lines = tmp_path_factory.mktemp("searched") / "out", []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("avader")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    tune.run(settings(data, out))
    logger.removeHandler(handler)
    return out, lines


def rows(out) -> list[dict[str, str]]:
    return list(csv.DictReader(storage.read_text(f"{out}/trials.csv").splitlines()))


def test_every_trial_has_a_row_and_a_line(found):
    out, lines = found
    table = rows(out)
    assert [row["trial"] for row in table] == ["1", "2", "3", "4"]
    said = [line for line in lines if line.strip().startswith("trial ")]
    assert len(said) == 4
    for row, line in zip(table, said, strict=True):
        rate = float(row["optimiser.learning_rate"])
        assert 1e-6 <= rate <= 5e-3
        assert line.startswith(
            f"  trial {row['trial']} of 4: score {float(row['score']):.3f}, "
            f"optimiser.learning_rate {rate:.4g}, "
        )
        epochs = int(row["epochs"])
        assert row["end"] == ("end" if epochs == EPOCHS else "stopped")
        assert ("stopped early" in line) == (epochs < EPOCHS)
        assert float(row["seconds"]) > 0
    # The recipe's own values are tried.
    assert RECIPE.optimiser.learning_rate in [
        float(row["optimiser.learning_rate"]) for row in table
    ]
    assert not (out / "unfinished").exists() or not any((out / "unfinished").iterdir())


def test_the_best_recipe_is_that_of_the_best_whole_trial(found):
    out, lines = found
    whole = [row for row in rows(out) if row["end"] == "end"]
    best = max(whole, key=lambda row: float(row["score"]))
    text = (out / "best.toml").read_text()
    assert lines[-1].endswith(text)
    recipe = Recipe(**tomllib.loads(text))
    assert recipe.optimiser.learning_rate == float(best["optimiser.learning_rate"])
    rate = {"learning_rate": recipe.optimiser.learning_rate}
    assert recipe == changed(optimiser=rate)
    assert text.startswith("# The best of 4 trials of `avader tune` over tiny.toml: number ")


def test_a_finished_search_is_not_run_again(found, data, caplog):
    out, _ = found
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO, "avader"):
        tune.run(settings(data, out))
    assert "holds this search, 4 trials: nothing to do" in caplog.text
    assert (out / "best.toml").read_text() in caplog.text
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_another_search_is_refused(found, data):
    out, _ = found
    other = changed(search={"optimiser.l2": {"low": 0.0, "high": 0.1}})
    with pytest.raises(InputError, match=r"recipe\.search\.optimiser"):
        tune.run(settings(data, out, other))
    with pytest.raises(InputError, match=r"collapse_penalty was 100\.0 and is now 5\.0"):
        tune.run(settings(data, out, collapse_penalty=5.0))


@pytest.mark.long
def test_a_best_recipe_trains(data, ray_session, tmp_path):
    best = record(1, 1e-3, [-5.0] * EPOCHS, "end")
    text, file = best_toml(SEARCHED, "tiny", best, [best]), tmp_path / "best.toml"
    file.write_text(text)
    recipe = Recipe(**tomllib.loads(text))
    values = {"data": data, "out": str(tmp_path / "model"), "device": "cpu", "workers": 1}
    train.run(TrainSettings(**values, recipe=str(file), **recipe.model_dump()))
    card = read_model(str(tmp_path / "model")).card
    assert card["recipe"]["optimiser"]["learning_rate"] == recipe.optimiser.learning_rate


@pytest.mark.long
def test_a_streamed_trial_has_the_scores_of_one_in_memory(ray_session, tmp_path):
    data = write_packed(tmp_path / "packed", images(), per_shard=10)
    short = {"gamma_epochs": 1, "periods": 1, "annealing_epochs": 1, "static_epochs": 0}
    recipe = changed(search=RATES, window=20, schedule=short)
    few = 40 * 256 / 2**30  # GiB of 40 images of the 60
    outs = {"memory": 0.0, "streamed": few}
    for name, limit in outs.items():
        out = tmp_path / name
        tune.run(settings(data, out, recipe, trials=1, workers=1, memory_limit=limit))
    memory, streamed = (read_records(str(tmp_path / name)) for name in outs)
    assert streamed[0].scores == memory[0].scores


def test_too_little_memory_is_refused_before_ray_starts(data, tmp_path, monkeypatch):
    few, recipe, out = 40 * 256 / 2**30, changed(search=RATES, window=60), tmp_path / "wide"
    values = {"data": data, "out": str(out), "memory_limit": few, "workers": 1}
    for verb, wide in (
        (tune, settings(data, out, recipe, memory_limit=few)),
        (train, TrainSettings(**values, recipe="demo", **recipe.model_dump())),
    ):
        monkeypatch.setattr(verb, "cluster", None)
        with pytest.raises(InputError, match="a window of 60 images"):
            verb.run(wide)
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE, r"wanted a recipe with ranges to search, got tiny\.toml without"),
        (
            changed(search={"mixture.components": {"low": 2, "high": 55}}),
            "got 55 components and 54 images",
        ),
        (
            changed(search={"outside_weight": {"low": 0.1, "high": 1.0}}),
            "wants source masks",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(recipe, message, data, tmp_path):
    with pytest.raises(InputError, match=message):
        tune.run(settings(data, tmp_path / "out", recipe))
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_used_end_the_search(ray_session, tmp_path):
    pixels = images().astype(np.float16) / 255
    pixels[7] = np.nan
    data = write_packed(tmp_path / "packed", pixels)
    with pytest.raises(InputError, match="wanted finite pixels, got 1 images of 25"):
        tune.run(settings(data, tmp_path / "out"))
    assert read_records(str(tmp_path / "out")) == []


def test_failed_trials_and_the_end_of_a_small_space(data, ray_session, tmp_path, caplog):
    """Filters and kernels that do not go together fail their trial alone; four combinations are
    all that there is, whatever the trials asked for."""
    recipe = changed(
        search={
            "network.filters": {"choices": [[4, 4], [2, 2]]},
            "mixture.initial_rows": {"choices": [1, 60]},
        }
    )
    with caplog.at_level(logging.INFO, "avader"):
        tune.run(settings(data, tmp_path / "out", recipe, trials=9))
    table = rows(tmp_path / "out")
    assert len({(row["network.filters"], row["mixture.initial_rows"]) for row in table}) == 4
    assert len(table) == 4
    failed = [row for row in table if row["end"] == "failed"]
    assert failed
    assert all(row["mixture.initial_rows"] == "1" for row in failed)
    assert all(row["score"] == "" and row["failure"] for row in failed)
    assert "failed: " in caplog.text
    best = Recipe(**tomllib.loads((tmp_path / "out" / "best.toml").read_text()))
    assert best.mixture.initial_rows == 60


def record(number: int, rate: float, scores: list[float], end: str) -> Record:
    return Record(number, {"optimiser.learning_rate": rate}, scores, -1.0, 2, 1.8, 1.0, end)


def test_a_trial_that_has_ended_is_not_gone_on_with(tmp_path):
    """Where the driver is killed between a trial's record and the end of its folder."""
    out, ended, begun = str(tmp_path), record(1, 1e-3, [-5.0], "end"), {"optimiser.l2": 0.5}
    write_record(out, ended)
    for values in (ended.values, begun):
        write_begun(trial_folder(out, values), values)
    storage.write_bytes(f"{trial_folder(out, ended.values)}/state.pt", b"state")
    assert take_begun(out, read_records(out)) == [begun]
    assert os.listdir(tmp_path / "unfinished") == [values_name(begun)]


def test_a_trial_stopped_early_is_never_the_best():
    records = [record(1, 1e-3, [-5.0], "stopped"), record(2, 1e-4, [-50.0] * EPOCHS, "end")]
    assert best_of(records) is records[1]
    assert best_of(records[:1]) is None


def test_no_trial_to_the_end(data, tmp_path):
    with pytest.raises(TrainingError, match="no trial of 1 was trained to the end"):
        tune._best(SEARCHED, "tiny", [record(1, 1e-3, [-5.0], "stopped")])


def test_tpe_learns_from_the_trials_before():
    """After many trials that were good at high rates alone, most suggestions are high."""
    rates = np.geomspace(1e-6, 5e-3, 40)
    records = [
        record(number, float(rate), [-100 * abs(np.log10(rate / 2e-3))] * EPOCHS, "end")
        for number, rate in enumerate(rates, 1)
    ]
    search = TPE(SEARCHED, records, [], startup=3)
    suggested = [search.suggest(str(n))["optimiser.learning_rate"] for n in range(20)]
    assert np.median(suggested) > 3e-4  # a third of the range, in its logarithm
    assert len(set(suggested)) == 20


def test_trials_stopped_early_do_not_outshine_whole_ones():
    """Scores of early epochs, higher than those of the last, at rates that are bad."""
    rates = np.geomspace(1e-6, 5e-3, 40)
    records = [
        record(number, float(rate), [-1.0], "stopped")
        if rate < 1e-4
        else record(number, float(rate), [-50.0] * EPOCHS, "end")
        for number, rate in enumerate(rates, 1)
    ]
    search = TPE(SEARCHED, records, [], startup=3)
    suggested = [search.suggest(str(n))["optimiser.learning_rate"] for n in range(20)]
    assert np.median(suggested) > 1e-4


def test_begun_trials_come_first_and_none_twice():
    recipe = changed(search={"optimiser.batch": {"choices": [8, 16, 32]}})
    before = Record(1, {"optimiser.batch": 8}, [-1.0] * EPOCHS, -1.0, 2, 1.8, 1.0, "end")
    search = TPE(recipe, [before], [{"optimiser.batch": 32}], startup=3)
    assert search.suggest("a") == {"optimiser.batch": 32}
    assert search.suggest("b") == {"optimiser.batch": 16}
    assert search.suggest("c") == "FINISHED"


def test_early_stopping_knows_the_trials_before():
    """The worst of many is stopped at the first rung, the best goes on."""
    records = [record(n, 1e-3, [-float(n)] * EPOCHS, "end") for n in range(1, 9)]

    class Trial:
        def __init__(self, name):
            self.trial_id = name

    scheduler = early_stopping(EPOCHS, records)
    decisions = []
    for name, score in (("good", -0.5), ("bad", -20.0)):
        trial = Trial(name)
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"epoch": 1, "score": score}))
    assert decisions == ["CONTINUE", "STOP"]
    # Others have come since a trial was there first, before the driver was killed.
    trial = Trial("killed")
    scheduler.on_trial_add(None, trial)
    told = {"epoch": 1, "score": -20.0, "again": True}
    assert scheduler.on_trial_result(None, trial, told) == "CONTINUE"


def test_whole_numbers_and_fractions():
    recipe = changed(
        search={
            "optimiser.batch": {"low": 8, "high": 32},
            "optimiser.l2": {"low": 0, "high": 1},
        }
    )
    kinds = {name: type(kind).__name__ for name, kind in distributions(recipe).items()}
    assert kinds == {"optimiser.batch": "IntDistribution", "optimiser.l2": "FloatDistribution"}


def test_best_toml_keeps_what_the_recipe_said():
    best = Record(3, {"mixture.components": 5}, [-9.5] * EPOCHS, -9.5, 5, 4.2, 12.0, "end")
    recipe = changed(search=RATES, held_out=0.05)
    read = Recipe(**tomllib.loads(best_toml(recipe, "tiny", best, [best])))
    assert read == changed(mixture={"components": 5}, held_out=0.05)


def test_best_toml_of_a_recipe_with_modes():
    best = Record(3, {"mixture.components": 5}, [-9.5] * EPOCHS, -9.5, 5, 4.2, 12.0, "end")
    text = best_toml(changed(search=RATES, mode="ours", flips=False), "tiny", best, [best])
    read = Recipe(**recipe_settings(tomllib.loads(text), "best.toml"))
    assert read == changed(mixture={"components": 5}, mode="ours", flips=False)


# Slow enough to be killed in mid-trial.
SLOW = changed(search=RATES, schedule={"gamma_epochs": 15, "periods": 1, "static_epochs": 10})


def unfinished_states(out) -> list[str]:
    return storage.list_files(f"{out}/unfinished", ("state.pt",))


@pytest.mark.long
def test_killed_driver(s3_uri, tmp_path):
    """SIGKILL of the driver in mid-trial, then the same command: ended trials are kept, begun ones
    go on."""
    data, out = write_packed(f"{s3_uri}/packed", images(400)), f"{s3_uri}/out"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomlkit.dumps(SLOW.model_dump(mode="json", exclude_none=True)))
    command = [
        *[sys.executable, "-m", "avader", "tune", "--recipe", str(recipe), "--workers", "1"],
        *["--data", data, "--out", out, "--device", "cpu", "--trials", "3"],
    ]
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def in_mid_trial() -> bool:
        """Whether a trial has ended and another is on its way; the driver is then left stopped.

        One that goes on could end the trial before it is killed.
        """
        assert process.poll() is None, said.read_text()
        if not (read_records(out) and unfinished_states(out)):
            return False
        process.send_signal(signal.SIGSTOP)
        ended = [values_name(record.values) for record in read_records(out)]
        if any(uri.split("/")[-2] not in ended for uri in unfinished_states(out)):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    try:
        wait_for(in_mid_trial, seconds=400)
    finally:
        process.kill()
        process.wait()
    kept = read_records(out)
    values = take_begun(out, kept)[0]
    assert not storage.exists(f"{out}/best.toml")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert f"going on: {len(kept)} trials have ended" in ended.stdout
    records = read_records(out)
    assert len(records) == 3
    assert records[: len(kept)] == kept
    assert values in [record.values for record in records]
    assert storage.read_text(f"{out}/best.toml") in ended.stdout


@pytest.mark.long
def test_killed_trial(ray_session, tmp_path):
    """SIGKILL of a trial's worker: it goes on from its last epoch, and its scores are those of a
    trial that was not killed."""
    data = write_packed(tmp_path / "packed", images(400))
    recipe = SLOW.model_copy(update={"search": changed(
        search={"optimiser.learning_rate": {"choices": [5e-3, 4e-3]}}).search})  # fmt: skip
    outs = {name: tmp_path / name for name in ("whole", "killed")}
    tune.run(settings(data, outs["whole"], recipe, trials=1, workers=1))
    errors = []

    def work():
        try:
            tune.run(settings(data, outs["killed"], recipe, trials=1, workers=1))
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: unfinished_states(outs["killed"]))
    workers = descendants(b"ImplicitFunc")
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    thread.join(timeout=200)
    assert not errors
    whole, killed = (read_records(str(outs[name])) for name in ("whole", "killed"))
    assert killed[0].values == whole[0].values
    assert killed[0].scores == pytest.approx(whole[0].scores)
