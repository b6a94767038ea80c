"""Ray Tune's part of `tune`: TPE's suggestions, early stopping, and what the driver notes.

Nothing is kept in Ray's own files: a search goes on from the records in the output folder, told to
a fresh TPE and a fresh scheduler.
"""

import json
import os
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

# Read by Ray Tune: no files and no tables of its own, no change of folder, and Ctrl-C ends the
# command.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from avader.io import storage
from avader.model.schedule import total_epochs
from avader.pipelines.progress import duration, say
from avader.pipelines.tuning.records import (
    TABLE,
    Record,
    best_of,
    shown,
    table,
    write_begun,
    write_record,
)
from avader.pipelines.tuning.trial import (
    AGAIN,
    ENDS_SEARCH,
    EPOCH,
    FAILURE,
    SCORE,
    Search,
    trial,
    trial_folder,
    values_name,
)
from avader.recipe import Recipe, setting

ASKS = 100
"""Suggestions in turn that were tried before, after which the search ends."""
FACTOR = 2
"""Of the trials that reach a rung, one in so many goes on; rungs are so many times apart."""
FIRST = 6
"""The first rung is at this part of the epochs."""


def distributions(recipe: Recipe) -> dict[str, BaseDistribution]:
    """The recipe's ranges for Optuna; choices as JSON texts, since they may be lists."""
    found: dict[str, BaseDistribution] = {}
    for name, span in recipe.search.items():
        if span.low is None or span.high is None:
            found[name] = CategoricalDistribution([json.dumps(choice) for choice in span.choices])
        elif _whole(setting(recipe, name), span.low, span.high):
            found[name] = IntDistribution(int(span.low), int(span.high), log=span.log)
        else:
            found[name] = FloatDistribution(span.low, span.high, log=span.log)
    return found


def _whole(value: object, low: float, high: float) -> bool:
    """Whether a range is one of whole numbers: by the recipe's value, or where it is a text."""
    return isinstance(value, int) or (isinstance(low + high, int) and isinstance(value, str))


class TPE(OptunaSearch):
    """Optuna's TPE over a recipe's ranges, knowing the trials that have ended.

    A trial that was stopped early is told as pruned: its score is that of an earlier epoch, and no
    measure beside those of the last one. Values that were tried are not suggested again.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        begun: Sequence[Mapping[str, Any]],
        *,
        startup: int,
    ) -> None:
        """begun: values of trials to go on with, first. startup: trials drawn at random."""
        self.space, self.epochs = distributions(recipe), total_epochs(recipe.schedule)
        self.tried = {values_name(record.values) for record in records}
        self.asked: dict[str, str] = {}
        # Another seed than that of the run before, which would draw its first values again.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=startup, seed=(recipe.seed + len(records)) % 2**32
        )
        super().__init__(
            self.space,
            metric=SCORE,
            mode="max",
            sampler=sampler,
            points_to_evaluate=[self._encoded(values) for values in begun],
        )
        for record in records:
            early = record.end == "stopped"
            self.add_evaluated_point(
                self._encoded(record.values),
                record.score,
                pruned=early,
                # Optuna counts them from 0, epochs from 1.
                intermediate_values=[record.scores[0], *record.scores] if early else None,
            )

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Values that were not tried, or the end where there are no more."""
        for number in range(ASKS):
            self.asked[trial_id] = f"{trial_id}-{number}"
            values = self._decoded(super().suggest(self.asked[trial_id]))
            if values_name(values) not in self.tried:
                self.tried.add(values_name(values))
                return values
            super().on_trial_complete(self.asked[trial_id])
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch's score; a trial that was started again reports its epochs again."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*step.*already reported")
            super().on_trial_result(self.asked[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that has ended; `result` is its last one."""
        early = result is not None and result[EPOCH] < self.epochs
        super().on_trial_complete(self.asked[trial_id], None if early else result, error)

    def _encoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as Optuna has them: of a choice, its text."""
        return {name: self._text(name, value) for name, value in values.items()}

    def _text(self, name: str, value: Any) -> Any:
        choices = self.space[name]
        if not isinstance(choices, CategoricalDistribution):
            return value
        as_read = json.loads(json.dumps(value))
        return next(text for text in choices.choices if json.loads(str(text)) == as_read)

    def _decoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: json.loads(value) if isinstance(value, str) else value
            for name, value in values.items()
        }


class _EarlyStopping(AsyncHyperBandScheduler):
    """ASHA that lets a trial pass to where its last state was, whoever has come since."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What the trial is to do after an epoch."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get(AGAIN) else decision


def early_stopping(epochs: int, records: Sequence[Record]) -> AsyncHyperBandScheduler:
    """ASHA over the epochs of a trial, knowing the trials that have ended.

    At a sixth, a third and two thirds of the epochs a trial goes on where its score is in the
    better half of those that came there.
    """
    scheduler = _EarlyStopping(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        max_t=epochs,
        grace_period=max(1, epochs // FIRST),
        reduction_factor=FACTOR,
    )
    for record in records:
        before = SimpleNamespace(trial_id=f"before-{record.number}")
        scheduler.on_trial_add(None, before)
        for epoch, score in enumerate(record.scores, 1):
            scheduler.on_trial_result(None, before, {EPOCH: epoch, SCORE: score})
        scheduler.on_trial_remove(None, before)
    return scheduler


class Ledger(tune.Callback):
    """Notes trials that begin and end, and says a line for each that has ended."""

    def __init__(self, search: Search, records: Sequence[Record], trials: int) -> None:
        self.search, self.records, self.trials = search, list(records), trials
        self.results: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.before, self.began = len(records), time.monotonic()
        self.problem = ""
        self.lost: list[str] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep the values, so that the trial can be gone on with."""
        write_begun(trial_folder(self.search.out, trial.config), trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep an epoch's result; what is wrong for all trials ends the search."""
        self.results[trial.trial_id][result[EPOCH]] = result
        if result.get(ENDS_SEARCH):
            self.problem = result[FAILURE]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the record of a trial that has ended, and say it."""
        results = self.results.pop(trial.trial_id, None)
        if self.problem or not results:
            return
        record = self._record(trial.config, results)
        write_record(self.search.out, record)
        self.records.append(record)
        names = list(self.search.recipe.search)
        storage.write_bytes(storage.join(self.search.out, TABLE), table(self.records, names))
        storage.remove(trial_folder(self.search.out, trial.config))
        say("  " + self._line(record))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial whose worker was lost too often; it has no record."""
        self.lost.append(str(trial.get_error()))
        say(f"  a trial was lost: {_values(trial.config)}")

    def _record(self, values: dict[str, Any], results: dict[int, dict[str, Any]]) -> Record:
        last = results[max(results)]
        failure = str(last.get(FAILURE, ""))
        end = "failed" if failure else "end" if last[EPOCH] == self.search.epochs else "stopped"
        facts = {name: last.get(name) for name in ("bound", "components", "effective_components")}
        past = [results[epoch] for epoch in sorted(results)]
        return Record(
            number=len(self.records) + 1,
            values=dict(values),
            scores=[last[SCORE]] if failure else [result[SCORE] for result in past],
            seconds=round(max(result.get("train_seconds", 0.0) for result in past), 3),
            end=end,
            failure=failure,
            **facts,
        )

    def _line(self, record: Record) -> str:
        """What a trial came to: "trial 3 of 20: score -104.210, ..., best trial 2, 4 min left"."""
        epochs = self.search.epochs
        how = {
            "end": f"{epochs} epochs",
            "stopped": f"stopped early, after {len(record.scores)} of {epochs} epochs",
            "failed": f"failed: {record.failure}",
        }
        score = [] if record.end == "failed" else [f"score {record.score:.3f}"]
        best = best_of(self.records)
        spent, done = time.monotonic() - self.began, len(self.records) - self.before
        left = spent / done * (self.trials - len(self.records))
        parts = [
            *score,
            _values(record.values),
            how[record.end],
            *([f"best trial {best.number} ({best.score:.3f})"] if best else []),
            *([f"{duration(left)} left"] if left else []),
        ]
        return f"trial {record.number} of {self.trials}: " + ", ".join(parts)


class _Ending(tune.Stopper):
    """Ends the search where the ledger has a problem that is all trials'."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(result.get(FAILURE))

    def stop_all(self) -> bool:
        return bool(self.ledger.problem)


def run_trials(
    search: Search,
    ledger: Ledger,
    begun: Sequence[Mapping[str, Any]],
    *,
    at_once: int,
    each: Mapping[str, float],
    max_failures: int,
) -> None:
    """Run the trials that are left, with what Ray gives to each, until the search has ended.

    begun: values of the trials to begin with.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    records = list(ledger.records)
    algorithm = TPE(search.recipe, records, begun, startup=max(3, min(10, ledger.trials // 4)))
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trial, search=search), dict(each)),
            tune_config=tune.TuneConfig(
                search_alg=algorithm,
                scheduler=early_stopping(search.epochs, records),
                num_samples=ledger.trials - len(records),
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                stop=_Ending(ledger),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                callbacks=[ledger],
                verbose=0,
            ),
        )
        tuner.fit()


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items())
