"""The main job: train or load the teacher, train the student in each way for each seed, report."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from kdjax import data, losses, models
from kdjax.base import Model, Variables
from kdjax.data import Dataset, TeacherCache
from kdjax.train import answers, lineage, loop, measuring, processes, schema, workdir
from kdjax.train.arms import TEACHER, Arm, arms_of
from kdjax.train.checkpoints import read_variables
from kdjax.train.design import Design
from kdjax.train.errors import CheckpointError, RecipeError, one_line
from kdjax.train.job import Job
from kdjax.train.lineage import Frozen
from kdjax.train.options import describe
from kdjax.train.report import write_report
from kdjax.train.results import RunResult, read_result
from kdjax.train.splits import CACHE, Data, load_data, training_batches
from kdjax.train.stopping import Stop, stop_on_signals


def run(config: ConfigDict, folder: str | os.PathLike[str]) -> Path:
    """Does everything a recipe says that is not done yet, and writes the report.

    A workdir that holds a part of this recipe's runs is gone on with; finished runs are kept.

    Args:
      config: a recipe, see `kdjax.train.schema`.
      folder: the workdir; made if missing.

    Returns:
      The path of `report.html`.

    Raises:
      RecipeError: for whatever is wrong with the recipe or the workdir, before any training.
      stopping.Interrupted: after SIGTERM or SIGINT; running again goes on.
      loop.NonFiniteLoss: if a loss or the parameters are no longer finite.
    """
    config = schema.checked(config)
    folder = Path(folder).absolute()
    runs = list(arms_of(config))
    with stop_on_signals() as stop, workdir.claimed(folder):
        workdir.check_config(folder, config, runs)
        experiment = Experiment(config, load_data(config), folder, stop)
        experiment.check()
        workdir.record(folder, config, runs)
        teacher = experiment.teacher()
        for seed in config.seeds:
            for name in experiment.arms:
                experiment.student(name, seed, teacher)
        if processes.is_main():
            write_report(folder)
        processes.wait("report")
        return folder / "report.html"


@dataclasses.dataclass
class Experiment(Design):
    """A design that is carried out in a folder.

    Attributes:
      workdir: the folder.
      stop: asks the training to end early.
    """

    workdir: Path
    stop: Stop = dataclasses.field(default_factory=Stop)

    def folder(self, name: str, seed: int) -> Path:
        """Where a run's files are."""
        return self.workdir / "runs" / name / f"seed_{seed}"

    def check(self) -> None:
        """Traces each way to train, and looks whether a teacher that is named can be loaded.

        Raises:
          RecipeError: one line that says what to change.
        """
        if self.needs_teacher and self.config.teacher.checkpoint:
            try:
                self.trained(TEACHER, 0)
            except (RecipeError, FileNotFoundError) as error:
                raise RecipeError(f"config.teacher.checkpoint: {one_line(error)}") from error
        super().check()

    def trained(self, name: str, seed: int) -> tuple[Model, Variables]:
        """Model and variables of a run, as its result was measured with.

        Raises:
          FileNotFoundError: it has no checkpoint.
          RecipeError: the checkpoint cannot be read, or is of another model.
        """
        model = self.model_of(name)
        metric, folder = self._best, self.folder(name, seed)
        if name == TEACHER and self.config.teacher.checkpoint:
            metric, folder = None, Path(self.config.teacher.checkpoint).expanduser()
        if folder.name != "checkpoints":
            folder = folder / "checkpoints"
        like = jax.eval_shape(model.init, jax.random.key(0), self.rows(self.data.train))
        try:
            return model, read_variables(folder, like, metric=metric)
        except CheckpointError as error:
            raise RecipeError(f"{error}; remove {folder.parent} to train it again") from error
        except ValueError as error:
            raise RecipeError(one_line(error)) from error

    def _built_on(self, name: str, seed: int) -> tuple[Model, Variables]:
        """A run that one of this seed builds on; the teacher is the same for all seeds."""
        return self.trained(name, 0 if name == TEACHER else seed)

    # The teacher.

    def teacher(self) -> Frozen | None:
        """Trains or loads the teacher, or all members of a committee."""
        if not self.needs_teacher:
            return None
        members = []
        for member in range(self.config.teacher.members):
            if not self.config.teacher.checkpoint:
                self._train_teacher(member)
            members.append(self.trained(TEACHER, member)[1])
        teacher = self.committee(members)
        if self.config.teacher.checkpoint and not self._finished(TEACHER, 0):
            self._write_result(
                RunResult(
                    run=TEACHER,
                    seed=0,
                    description=f"loaded from {self.config.teacher.checkpoint}",
                    model=describe(self.config.teacher.model),
                    steps=0,
                    seconds=0.0,
                    parameters=models.count_parameters(teacher.variables),
                    examples_per_second=0.0,
                    **self.measure(teacher.model, teacher.variables, None),
                )
            )
        return teacher

    def teacher_if_trained(self) -> Frozen | None:
        """The teacher from its checkpoints, without any training; `None` if it is not there."""
        if not self.needs_teacher:
            return None
        try:
            members = range(self.config.teacher.members)
            return self.committee([self.trained(TEACHER, member)[1] for member in members])
        except FileNotFoundError:
            return None

    def _train_teacher(self, member: int) -> None:
        if self._finished(TEACHER, member):
            return
        options = self.config.teacher
        self._train(
            Job(
                TEACHER,
                member,
                self.compiled(TEACHER, self.teacher_algorithm),
                self.teacher_model,
                self.teacher_data,
                self.facts(options, self.teacher_data)["total_steps"],
                jax.random.key(options.seed + member),
                description="cross-entropy with the labels",
                shown=describe(options.model),
            ),
            None,
        )

    # The student.

    def student(self, name: str, seed: int, teacher: Frozen | None) -> None:
        """Trains the student in one way with one seed, and evaluates it.

        The runs that it builds on are trained before.
        """
        for other in self.arms[name].after:
            self.student(other, seed, teacher)
        if not self._finished(name, seed):
            self._train(self.job(name, seed, teacher), teacher)

    def job(self, name: str, seed: int, teacher: Frozen | None) -> Job:
        """What it takes to train the student in one way with one seed."""
        arm = self.arms[name]
        find = functools.partial(self._built_on, seed=seed)
        teacher = lineage.guide(arm, teacher, find)
        # What is fitted to a run of this seed is a constant of this seed's step.
        key = f"{name}/{seed}" if arm.after and lineage.fitted_options(arm) else name
        train, kept = self._training_data(arm, teacher, seed)
        return Job(
            name,
            seed,
            self.compiled(key, lambda: self.algorithm(arm, teacher, find)),
            self.model_of(name),
            train,
            self.facts(self.config.student)["total_steps"],
            # A student is not to start as its teacher did.
            jax.random.key(seed + 10_000 * lineage.generation(arm, self.arms)),
            description=describe(arm.options),
            shown=describe(self.network_of(name)),
            frozen=self.frozen(arm, teacher),
            start=lineage.start(arm, find),
            validation=self.data.validation if arm.wants_validation else None,
            main_player=arm.main_player,
            answers=kept,
        )

    def _training_data(
        self, arm: Arm, teacher: Frozen | None, seed: int
    ) -> tuple[Dataset, TeacherCache | None]:
        """The training set, with the teacher's logits where these are kept; or these beside it."""
        train, augment = self.data.train, self.augment_options(arm)[1]
        if teacher is None or not self.cached(arm):
            return train, None
        if CACHE in train.features and not augment and not arm.taught_by:
            return train, None
        augmented_by = describe(augment) if augment else ""
        key = CACHE, augmented_by, (arm.taught_by, seed) if arm.taught_by else ()
        if key not in self.made:
            found = answers.answers(
                self.workdir,
                teacher,
                train,
                self.eval_batch_size,
                augment=self.augmentation(arm, self.facts(self.config.student)),
                views=self.config.teacher.cache_views if augment else 1,
                augmented_by=augmented_by,
            )
            # Of one view they are a column, which is cheaper than to look them up for each batch.
            joined = (train, found) if augment else (answers.with_answers(train, found), None)
            self.made[key] = joined
        return self.made[key]

    # Both.

    def measure(self, model: Model, variables: Variables, teacher: Frozen | None) -> dict[str, Any]:
        """Everything about the test set: `metrics`, `reliability` and `confusion`."""
        logits = measuring.predict(model, variables, self.data.test, self.eval_batch_size)
        theirs = None if teacher is None else self._teacher_test_logits(teacher)
        if logits.ndim == 3:
            logits = np.asarray(losses.committee(logits))
        return measuring.measure(logits, self._test_labels, theirs)

    def _train(self, job: Job, teacher: Frozen | None) -> None:
        """Trains to the end and writes the result, or goes on where it was interrupted."""
        processes.stop_together(self.stop)
        self.stop.check(f"before {job.name}, seed {job.seed}")
        seed = int(jax.random.key_data(job.key)[-1])
        batch_size = self.config.data.batch_size
        batch = job.batch(batch_size)
        if job.validation is not None:
            batch["validation"] = self.rows(job.validation)
        train, frozen = job.train, dict(job.frozen)
        if self.config.data.on_device and job.answers is None:
            resident = self._resident(job.train)
            train, frozen[data.COLUMNS] = resident.rows, resident.columns
        outcome = loop.fit(
            job.algorithm,
            job.algorithm.init(job.key, processes.own_rows(batch), job.frozen, job.start),
            training_batches(train, job.validation, batch_size, seed, job.answers),
            self._budget(job),
            self.folder(job.name, job.seed),
            frozen=frozen,
            evaluate=self._evaluate(job.model),
            split=self.data.watch[0],
            description=f"{job.name} seed {job.seed}",
            batch_size=batch_size,
            main_player=job.main_player,
            sharding=None if self.layout is None else self.layout.rows,
            stop=self.stop,
            guards=schema.guards_of(self.config),
        )
        model, variables = self.trained(job.name, job.seed)
        self._write_result(
            RunResult(
                run=job.name,
                seed=job.seed,
                description=job.description,
                model=job.shown,
                steps=job.steps,
                seconds=outcome.seconds,
                parameters=models.count_parameters(variables),
                examples_per_second=outcome.examples_per_second,
                **self.measure(model, variables, teacher),
            )
        )

    def _resident(self, train: Dataset) -> data.Resident:
        """The training set on the device; one at a time is kept there."""
        if self.made.get("resident", (None,))[0] is not train:
            sharding = None if self.layout is None else self.layout.everywhere
            self.made["resident"] = train, data.on_device(train, sharding)
        return self.made["resident"][1]

    def _budget(self, job: Job) -> loop.Budget:
        config = self.config
        per_epoch = max(1, job.train.size // config.data.batch_size)
        return loop.Budget(
            job.steps,
            log_every=max(1, min(config.log_every, job.steps)),
            evaluate_every=max(1, int(config.evaluate_every_epochs * per_epoch)),
            save_every=config.checkpoint.every_steps,
            keep=config.checkpoint.keep,
            best=self._best,
            steps_per_call=1 if job.name == TEACHER else config.student.steps_per_call,
        )

    @property
    def _best(self) -> str | None:
        return "accuracy" if self.config.select == "best" else None

    def _finished(self, name: str, seed: int) -> bool:
        try:
            read_result(self.folder(name, seed) / "result.json")
        except (OSError, ValueError, TypeError):
            return processes.agreed(False)  # one that cannot be read is measured again
        return processes.agreed(True)

    def _write_result(self, result: RunResult) -> None:
        if processes.is_main():
            result.write(self.folder(result.run, result.seed) / "result.json")

    def _evaluate(self, model: Model) -> loop.Evaluate:
        key = "evaluate", model
        if key not in self.made:
            self.made[key] = measuring.evaluator_of(
                model, self.data.watch[1], self.eval_batch_size, self.layout
            )
        evaluator = self.made[key]
        return lambda state: evaluator(state.players["student"].variables)

    def _teacher_test_logits(self, teacher: Frozen) -> np.ndarray:
        if CACHE in self.data.test.features:
            return self.data.test.arrays[CACHE]
        if "test" not in self.made:
            self.made["test"] = measuring.predict(
                teacher.model, teacher.variables, self.data.test, self.eval_batch_size
            )
        return self.made["test"]

    @functools.cached_property
    def _test_labels(self) -> np.ndarray:
        return measuring.labels_of(self.data.test, self.eval_batch_size)


__all__ = ["Data", "Experiment", "Frozen", "Job", "load_data", "run"]
