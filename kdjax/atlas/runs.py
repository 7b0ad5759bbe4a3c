"""Running a family under a protocol: the teacher, the trials, the runs, and a file for each."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kdjax import data
from kdjax.atlas import costs
from kdjax.atlas.family import BASELINE, Family, Method
from kdjax.atlas.protocol import Protocol
from kdjax.atlas.summary import summarize
from kdjax.data import Dataset, KeepSignals, TeacherCache, write_teacher_cache
from kdjax.train import workdir
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.experiment import Experiment, Frozen
from kdjax.train.files import to_json, write_json_atomic
from kdjax.train.loop import NonFiniteLoss
from kdjax.train.results import RunResult, read_result
from kdjax.train.splits import CACHE, Data, load_data, with_column
from kdjax.train.stopping import Stop, stop_on_signals


def run(
    family: Family,
    protocol: Protocol,
    folder: str | os.PathLike[str],
    results: str | os.PathLike[str],
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Path:
    """Does all runs that are not done yet, and writes a file for each and the summary.

    A job that was stopped anywhere goes on where it was when it is called again. A run whose file
    is among the results, with the same config, is kept, also when its workdir is gone. A method
    whose loss is not finite is recorded as failed, and the next one is run.

    Args:
      family: the methods.
      protocol: data, teacher, student and budget.
      folder: the workdir, with checkpoints and everything else.
      results: folder of the small files that are kept.
      methods: names of those to run; all by default.
      seeds: of the runs; the protocol's by default.

    Returns:
      The path of the summary.

    Raises:
      RecipeError: for a name that is not known, or a workdir of another protocol.
      stopping.Interrupted: after SIGTERM or SIGINT; running again goes on.
    """
    chosen = family.chosen(tuple(methods))
    folder = Path(folder).absolute() / protocol.name
    with stop_on_signals() as stop, workdir.claimed(folder):
        atlas = Atlas(family, protocol, folder, Path(results).absolute(), stop)
        for method in chosen:
            atlas.run(method, tuple(seeds) or protocol.seeds)
        return atlas.summarize()


@dataclasses.dataclass(eq=False)
class Atlas:
    """A family under a protocol, in a workdir.

    Attributes:
      family: the methods.
      protocol: what they share.
      folder: of the protocol in the workdir.
      results: folder of the small files.
      stop: asks the training to end early.
    """

    family: Family
    protocol: Protocol
    folder: Path
    results: Path
    stop: Stop

    def run(self, method: Method, seeds: Sequence[int]) -> None:
        """Chooses a method's learning rate, trains it with each seed, and weighs its step."""
        kept = {seed: stored for seed in seeds if (stored := self._kept(method, seed))}
        missing = [seed for seed in seeds if seed not in kept]
        try:
            if missing:
                tuned = next(iter(kept.values()))["tuning"] if kept else self._tuned(method)
                self._train(method, missing, tuned)
        except NonFiniteLoss as error:
            path = self._results_of(method.name) / "failed.json"
            write_json_atomic(path, {"failed": one_line(error)})
        self.summarize()

    def _train(self, method: Method, seeds: Sequence[int], tuned: dict[str, Any]) -> None:
        if tuned["learning_rate"] is None:
            raise NonFiniteLoss("no learning rate gave a finite loss")
        config = self.protocol.config(method, tuned["learning_rate"])
        experiment = self._experiment(config, self._place(method), method)
        for seed in seeds:
            experiment.student(method.name, seed, self.teacher)
            self._publish(method, seed, experiment, tuned)
        self._weigh(method, experiment)

    def _kept(self, method: Method, seed: int) -> dict[str, Any] | None:
        """A finished run's file, if it is of this protocol; its workdir may be gone."""
        path = self._results_of(method.name) / f"seed_{seed}.json"
        if not path.exists():
            return None
        stored = json.loads(self._read(path))
        tuning = self.protocol.tuning_of(method)
        config = self.protocol.config(method, stored["tuning"]["learning_rate"])
        same = stored["scale"] == self.protocol.scale and _agree(
            stored["config"], to_json(config.to_dict())
        )
        return stored if same and stored["tuning"]["tried"] == list(tuning.learning_rates) else None

    def summarize(self) -> Path:
        """Writes the summary of all results so far."""
        path = self.results / self.family.name / f"{self.protocol.name}.json"
        return write_json_atomic(path, summarize(self.family, self.protocol, self.results))

    # What all methods share.

    @functools.cached_property
    def _teacher_experiment(self) -> Experiment:
        config = self.protocol.teacher_config()
        return self._opened(config, self.folder / "teacher", load_data(config))

    @functools.cached_property
    def teacher(self) -> Frozen:
        """The teacher, trained if it is not yet."""
        experiment = self._teacher_experiment
        teacher = experiment.teacher()
        stored = _result(experiment, "teacher", 0)
        stored |= {"environment": json.loads(self._read(experiment.workdir / "environment.json"))}
        self._write_new(self._results_of("teacher") / "seed_0.json", stored)
        return teacher

    @functools.cached_property
    def _answers(self) -> tuple[TeacherCache, TeacherCache]:
        """The teacher's logits on its own training images and on the test images, on disk."""
        config = self.protocol.teacher_config()
        names = (config.teacher.train or config.data.train, config.data.test)
        return tuple(self._answers_on(self._original(split), split) for split in names)

    def _answers_on(self, dataset: Dataset, split: str) -> TeacherCache:
        folder, teacher = self.folder / "teacher_logits" / split, self.teacher
        try:
            return write_teacher_cache(
                folder,
                dataset,
                teacher.model,
                teacher.variables,
                keep=KeepSignals(("logits",), "float32"),
                batch_size=min(500, dataset.size),
            )
        except ValueError as error:
            raise RecipeError(f"{folder}: {one_line(error)}") from error

    @functools.cache  # noqa: B019 (an atlas lives as long as its process)
    def _original(self, split: str) -> Dataset:
        """A split with the ids that its examples have in all splits."""
        options = self.protocol.teacher_config().data
        where = {"data_dir": options.data_dir or None, "source_dir": options.source_dir or None}
        return data.load(options.name, split, **where)

    def _data(self, config: ConfigDict) -> Data:
        options = config.data
        return self._loaded(options.train, options.test, options.label_noise, options.labelled)

    @functools.cache  # noqa: B019
    def _loaded(self, train: str, test: str, label_noise: float, labelled: float) -> Data:
        """The splits, with the teacher's logits in a column."""
        config = self.protocol.teacher_config()
        own_test = config.data.test
        config.data.update(
            {"train": train, "test": test, "label_noise": label_noise, "labelled": labelled}
        )
        loaded, (on_train, on_test) = load_data(config), self._answers
        answers = on_test if test == own_test else on_train
        return loaded._replace(
            train=self._answered(loaded.train, train, on_train),
            test=self._answered(loaded.test, test, answers),
        )

    def _answered(self, dataset: Dataset, split: str, answers: TeacherCache) -> Dataset:
        logits = answers.take(self._original(split).arrays["id"])["logits"]
        return with_column(dataset, CACHE, logits)

    # One method.

    def _experiment(self, config: ConfigDict, place: Path, method: Method) -> Experiment:
        experiment = self._opened(config, place, self._data(config))
        if method.name not in experiment.arms:
            raise RecipeError(f"{method.name}: its runs would be called {list(experiment.arms)}")
        return experiment

    def _opened(self, config: ConfigDict, place: Path, loaded: Data) -> Experiment:
        experiment = Experiment(config, loaded, place, self.stop)
        workdir.check_config(place, config, list(experiment.arms))
        workdir.record(place, config, list(experiment.arms))
        return experiment

    def _tuned(self, method: Method) -> dict[str, Any]:
        """The learning rate with the best accuracy on held-out images, the first if several."""
        tuning = self.protocol.tuning_of(method)
        rates = tuning.learning_rates
        found = [self._trial(method, rate, tuning.seed) for rate in rates]
        finite = [accuracy for accuracy in found if accuracy is not None]
        best = rates[found.index(max(finite))] if finite else None
        return {"tried": list(rates), "validation_accuracy": found, "learning_rate": best}

    def _trial(self, method: Method, rate: float, seed: int) -> float | None:
        config = self.protocol.trial_config(method, rate)
        place = self._place(method) / "trials" / f"{rate:g}"
        experiment = self._experiment(config, place, method)
        try:
            experiment.student(method.name, seed, self.teacher)
        except NonFiniteLoss as error:
            print(f"{method.name}, learning rate {rate:g}: {one_line(error)}", file=sys.stderr)
            return None
        return _result(experiment, method.name, seed)["metrics"]["accuracy"]

    def _weigh(self, method: Method, experiment: Experiment) -> None:
        """Measures a step's time and memory beside those of the baseline, once."""
        path = self._results_of(method.name) / "cost.json"
        if path.exists():
            return
        first = self.protocol.tuning.learning_rates[0]
        baseline = self.family.methods[BASELINE]
        config = self.protocol.config(baseline, first)
        beside = Experiment(config, self._data(config), self.folder, self.stop)
        jobs = [
            e.job(n, 0, self.teacher) for e, n in ((experiment, method.name), (beside, BASELINE))
        ]
        write_json_atomic(path, costs.compare(*jobs, config.data.batch_size))

    def _place(self, method: Method) -> Path:
        return self.folder / self.family.name / method.name

    # Files that are kept.

    def _publish(
        self, method: Method, seed: int, experiment: Experiment, tuned: dict[str, Any]
    ) -> None:
        stored = {
            "family": self.family.name,
            "dataset": self.protocol.name,
            "method": method.name,
            "condition": method.condition,
            "scale": self.protocol.scale,
            **_result(experiment, method.name, seed),
            "tuning": tuned,
            "config": experiment.config.to_dict(),
            "environment": workdir.environment(),
        }
        self._write_new(self._results_of(method.name) / f"seed_{seed}.json", stored)

    def _write_new(self, path: Path, stored: dict[str, Any]) -> None:
        """Writes a file, unless it tells of the same run already."""
        stored = to_json(stored)
        before = json.loads(self._read(path)) if path.exists() else {}
        if {**before, "environment": 0} != {**stored, "environment": 0}:
            write_json_atomic(path, stored)

    def _results_of(self, name: str) -> Path:
        return self.results / self.family.name / self.protocol.name / name

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text(encoding="utf-8")


def _agree(stored: Any, config: Any) -> bool:
    """Whether a config is that of then; keys that have been added since do not matter."""
    if isinstance(stored, dict) and isinstance(config, dict):
        return all(key in config and _agree(stored[key], config[key]) for key in stored)
    return stored == config


def _result(experiment: Experiment, name: str, seed: int) -> dict[str, Any]:
    """A finished run's result, without what would make its file long."""
    found: RunResult = read_result(experiment.folder(name, seed) / "result.json")
    return {
        key: value
        for key, value in found.to_json().items()
        if key not in ("reliability", "confusion", "run")
    }
