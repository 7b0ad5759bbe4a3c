"""The main job: train or load the teacher, train the student in each way for each seed, report."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import kdjax
from kdjax import data, losses, models, objectives, parallel
from kdjax.base import Algorithm, Model, Variables
from kdjax.data import Dataset, TeacherCache
from kdjax.train import (
    answers,
    augmentation,
    lineage,
    loop,
    measuring,
    processes,
    recipe,
    schema,
    workdir,
)
from kdjax.train.arms import TEACHER, Arm, arms_of
from kdjax.train.checkpoints import read_variables
from kdjax.train.errors import CheckpointError, RecipeError, one_line
from kdjax.train.lineage import Frozen
from kdjax.train.report import write_report
from kdjax.train.results import RunResult, read_result
from kdjax.train.splits import CACHE, LABELLED, Data, load_data, training_batches
from kdjax.train.stopping import Stop, stop_on_signals


class Job(NamedTuple):
    """One run: what is trained on what, and how it is called.

    Attributes:
      name: `'teacher'` or an arm's.
      seed: of the run.
      algorithm: compiled.
      model: of the player `student`.
      train: the training set.
      steps: updates in all.
      key: of all randomness.
      description: of the objective, in words.
      shown: the model in words.
      frozen: variables of the frozen teachers.
      start: variables that players start from, by name.
      validation: a second source of batches.
      main_player: the player whose metrics count, where several play.
      answers: of the teacher to the views of the training examples, where they are kept.
    """

    name: str
    seed: int
    algorithm: Algorithm
    model: Model
    train: Dataset
    steps: int
    key: jax.Array
    description: str
    shown: str
    frozen: Mapping[str, Any] = {}
    start: Mapping[str, Variables] | None = None
    validation: Dataset | None = None
    main_player: str = ""
    answers: TeacherCache | None = None

    def batch(self, size: int) -> dict[str, Any]:
        """The first training batch in the data's order, on the device."""
        rows = self.train.take(np.arange(size) % self.train.size)
        if self.answers is not None:
            rows = self.answers.join({**rows, "view": np.zeros(size, np.int32)})
        return {name: jnp.asarray(value) for name, value in rows.items()}


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
        experiment = Experiment(config, folder, load_data(config), stop)
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
class Experiment:
    """One recipe on loaded data, in one workdir.

    Attributes:
      config: the recipe.
      workdir: its folder.
      data: its splits; where they hold the teacher's logits already (in the column
        `splits.CACHE`), these are taken.
      stop: asks the training to end early.
    """

    config: ConfigDict
    workdir: Path
    data: Data
    stop: Stop = dataclasses.field(default_factory=Stop)

    @functools.cached_property
    def arms(self) -> dict[str, Arm]:
        """The ways to train the student: baselines, then the objective itself."""
        return arms_of(self.config)

    @functools.cached_property
    def teacher_model(self) -> Model:
        """The teacher's network, one member's if it is a committee."""
        classes = self.config.teacher.num_classes or self.data.train.num_classes
        arms = [arm.options for arm in self.arms.values() if not arm.taught_by]
        taps = recipe.wanted_taps(arms)[TEACHER]
        facts = {"num_classes": classes}
        return recipe.build_model("teacher.model", self.config.teacher.model, facts, taps)

    def model_of(self, name: str) -> Model:
        """The network of a run; arms without one of their own share the student's."""
        if name == TEACHER:
            return self.teacher_model
        arm = self.arms[name]
        own = bool(arm.options.get("model"))
        alike = [arm] if own else [a for a in self.arms.values() if not a.options.get("model")]
        pupils = [a.options for a in self.arms.values() if name in a.taught_by]
        taps = recipe.wanted_taps(a.options for a in alike)["student"]
        taps = tuple(dict.fromkeys([*taps, *recipe.wanted_taps(pupils)[TEACHER]]))
        key = "model", name if own else "", taps
        if key not in self._made:
            section = f"{arm.section}.model" if own else "student.model"
            facts = {"num_classes": self.data.train.num_classes}
            self._made[key] = recipe.build_model(section, self.network_of(name), facts, taps)
        return self._made[key]

    def network_of(self, name: str) -> dict[str, Any]:
        """What the config says of a run's network."""
        if name == TEACHER:
            return self.config.teacher.model.to_dict()
        return self.arms[name].options.get("model") or self.config.student.model.to_dict()

    @property
    def needs_teacher(self) -> bool:
        """Whether any arm has the recipe's teacher."""
        return any(arm.uses_the_teacher for arm in self.arms.values())

    @property
    def eval_batch_size(self) -> int:
        """The batch size that data sets are predicted in."""
        return min(self.config.data.eval_batch_size, self.data.test.size)

    def folder(self, name: str, seed: int) -> Path:
        """Where a run's files are."""
        return self.workdir / "runs" / name / f"seed_{seed}"

    def check(self) -> None:
        """Traces each way to train, without training: shapes, names and options must fit.

        Raises:
          RecipeError: one line that says what to change.
        """
        if self.needs_teacher:
            self._check_teacher()
        for name, arm in self.arms.items():
            try:
                algorithm, batch, frozen = self.step_of(name)

                def trace(frozen, start, algorithm=algorithm, batch=batch):
                    state = algorithm.init(jax.random.key(0), batch, frozen, start)
                    return algorithm.step(state, batch, frozen)

                jax.eval_shape(trace, frozen, lineage.start(arm, self._abstract))
            except RecipeError:
                raise
            except (ValueError, TypeError, KeyError) as error:
                raise RecipeError(
                    f"config.{arm.section}: {one_line(error)}{self._hint()}"
                ) from error

    def step_of(self, name: str) -> tuple[Algorithm, dict[str, Any], dict[str, Variables]]:
        """An arm's algorithm, a batch of its shapes, and the shapes of its frozen variables."""
        arm = self.arms[name]
        teacher = lineage.guide(arm, self._abstract_teacher, self._abstract)
        batch = self._example_batch(self.data.train, arm, teacher)
        return self._algorithm(arm, teacher, None), batch, self._frozen(arm, teacher)

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
        like = jax.eval_shape(model.init, jax.random.key(0), self._rows(self.data.train))
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
        teacher = self._committee(members)
        if self.config.teacher.checkpoint and not self._finished(TEACHER, 0):
            self._write_result(
                RunResult(
                    run=TEACHER,
                    seed=0,
                    description=f"loaded from {self.config.teacher.checkpoint}",
                    model=recipe.describe(self.config.teacher.model),
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
            return self._committee([self.trained(TEACHER, member)[1] for member in members])
        except FileNotFoundError:
            return None

    def _committee(self, members: list[Variables]) -> Frozen:
        return lineage.together([self.teacher_model] * len(members), members)

    def _abstract(self, name: str) -> tuple[Model, Variables]:
        """Model of a run, and the shapes of its variables."""
        model = self.model_of(name)
        return model, jax.eval_shape(model.init, jax.random.key(0), self._rows(self.data.train))

    @functools.cached_property
    def _abstract_teacher(self) -> Frozen:
        return self._committee([self._abstract(TEACHER)[1]] * self.config.teacher.members)

    def _check_teacher(self) -> None:
        """Builds what the teacher is trained with, or looks whether it can be loaded."""
        if not self.config.teacher.checkpoint:
            self._teacher_algorithm()
            return
        try:
            self.trained(TEACHER, 0)
        except (RecipeError, FileNotFoundError) as error:
            raise RecipeError(f"config.teacher.checkpoint: {one_line(error)}") from error

    def _train_teacher(self, member: int) -> None:
        if self._finished(TEACHER, member):
            return
        options = self.config.teacher
        self._train(
            Job(
                TEACHER,
                member,
                self._compiled(TEACHER, self._teacher_algorithm),
                self.teacher_model,
                self._teacher_data,
                self._facts(options, self._teacher_data)["total_steps"],
                jax.random.key(options.seed + member),
                description="cross-entropy with the labels",
                shown=recipe.describe(options.model),
            ),
            None,
        )

    def _teacher_algorithm(self) -> Algorithm:
        options = self.config.teacher
        facts = self._facts(options, self._teacher_data)
        objective = objectives.measured(
            kdjax.lift(losses.cross_entropy, label_smoothing=options.label_smoothing),
            accuracy=objectives.correct,
        )
        optimizer = recipe.build_optimizer(
            "teacher.optimizer", options.optimizer, facts["total_steps"]
        )
        augment = augmentation.build("teacher.augment", options.augment, facts)
        guards = schema.guards_of(self.config)
        return kdjax.algorithms.distill(
            self.teacher_model, None, objective, optimizer, augment=augment, guards=guards
        )

    @property
    def _teacher_data(self) -> Dataset:
        return self.data.train if self.data.teacher is None else self.data.teacher

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
            self._compiled(key, lambda: self._algorithm(arm, teacher, seed)),
            self.model_of(name),
            train,
            self._facts(self.config.student)["total_steps"],
            # A student is not to start as its teacher did.
            jax.random.key(seed + 10_000 * lineage.generation(arm, self.arms)),
            description=recipe.describe(arm.options),
            shown=recipe.describe(self.network_of(name)),
            frozen=self._frozen(arm, teacher),
            start=lineage.start(arm, find),
            validation=self.data.validation if arm.wants_validation else None,
            main_player=arm.main_player,
            answers=kept,
        )

    def _algorithm(self, arm: Arm, teacher: Frozen | None, seed: int | None) -> Algorithm:
        """The algorithm of an arm; for no seed one to take shapes from."""
        facts = self._facts(self.config.student)
        if self.config.data.labelled < 1:
            facts[LABELLED] = LABELLED
        if teacher is not None and teacher.members > 1:
            own = [self.model_of(name) for name in arm.taught_by]
            facts["committee"] = own or [self.teacher_model] * teacher.members
            facts["members"] = teacher.members
        abstract = seed is None
        find = self._abstract if abstract else functools.partial(self._built_on, seed=seed)
        chosen = lineage.fitted(
            arm, teacher, find, self.data, self.eval_batch_size, abstract=abstract
        )
        optimizer = recipe.build_optimizer(
            "student.optimizer", self.config.student.optimizer, facts["total_steps"]
        )
        guide = None
        if arm.needs_teacher and teacher is not None:
            guide = models.from_batch({"logits": CACHE}) if self._cached(arm) else teacher.model
        options: dict[str, Any] = {
            "augment": self._augmentation(arm, facts),
            "guards": schema.guards_of(self.config),
        }
        if not arm.wants_validation:
            options["microbatches"] = self.config.microbatches
        return recipe.build_algorithm(
            arm.section, chosen, self.model_of(arm.name), guide, optimizer, facts, **options
        )

    def _augment(self, arm: Arm) -> tuple[str, Any]:
        """Where the arm's augmentation is described, and how."""
        if "augment" in arm.options:
            return f"{arm.section}.augment", arm.options["augment"]
        return "student.augment", self.config.student.augment

    def _augmentation(self, arm: Arm, facts: Mapping[str, Any]) -> Any:
        """The arm's augmentation; repeatable where the teacher's answers to it are kept."""
        made = augmentation.build(*self._augment(arm), facts)
        return data.repeatable(made) if made is not None and self._cached(arm) else made

    def _cached(self, arm: Arm) -> bool:
        """Whether the teacher's logits are computed once and read from the batch."""
        options, augment = self.config.teacher, self._augment(arm)[1]
        fixed = not augment or options.cache_views > 0
        return bool(options.cache) and arm.needs_teacher and arm.reads_logits_only and fixed

    def _frozen(self, arm: Arm, teacher: Frozen | None) -> dict[str, Variables]:
        if teacher is None or not arm.needs_teacher or self._cached(arm):
            return {}
        return {"teacher": teacher.variables}

    def _training_data(
        self, arm: Arm, teacher: Frozen | None, seed: int
    ) -> tuple[Dataset, TeacherCache | None]:
        """The training set, with the teacher's logits where these are kept; or these beside it."""
        train, augment = self.data.train, self._augment(arm)[1]
        if teacher is None or not self._cached(arm):
            return train, None
        if CACHE in train.features and not augment and not arm.taught_by:
            return train, None
        augmented_by = recipe.describe(augment) if augment else ""
        key = CACHE, augmented_by, (arm.taught_by, seed) if arm.taught_by else ()
        if key not in self._made:
            found = answers.answers(
                self.workdir,
                teacher,
                train,
                self.eval_batch_size,
                augment=self._augmentation(arm, self._facts(self.config.student)),
                views=self.config.teacher.cache_views if augment else 1,
                augmented_by=augmented_by,
            )
            # Of one view they are a column, which is cheaper than to look them up for each batch.
            joined = (train, found) if augment else (answers.with_answers(train, found), None)
            self._made[key] = joined
        return self._made[key]

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
            batch["validation"] = self._rows(job.validation)
        outcome = loop.fit(
            job.algorithm,
            job.algorithm.init(job.key, processes.own_rows(batch), job.frozen, job.start),
            training_batches(job.train, job.validation, batch_size, seed, job.answers),
            self._budget(job),
            self.folder(job.name, job.seed),
            frozen=job.frozen,
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

    def _rows(self, dataset: Dataset) -> dict[str, Any]:
        """A batch of a data set, to take shapes from."""
        rows = np.arange(self.config.data.batch_size) % dataset.size
        return {name: jnp.asarray(value) for name, value in dataset.take(rows).items()}

    def _example_batch(self, train: Dataset, arm: Arm, teacher: Frozen) -> dict[str, Any]:
        """A batch with all that an arm reads, without the teacher having been trained."""
        batch = self._rows(train)
        if self._cached(arm):
            signals, _ = jax.eval_shape(teacher.model.apply, teacher.variables, batch)
            batch[CACHE] = jnp.zeros(signals["logits"].shape)
            if self._augment(arm)[1]:
                batch["view"] = jnp.zeros(len(batch["id"]), jnp.int32)
        if arm.wants_validation:
            if self.data.validation is None:
                raise RecipeError(
                    f"config.data.validation is empty; {arm.scheme} wants a validation split"
                )
            batch["validation"] = self._rows(self.data.validation)
        return batch

    def _facts(self, options: Any, train: Dataset | None = None) -> dict[str, Any]:
        size = (self.data.train if train is None else train).size
        batch_size = self.config.data.batch_size
        if batch_size > size:
            raise RecipeError(
                f"config.data.batch_size is {batch_size}, the training set has {size}"
            )
        per_epoch = size // batch_size
        return {
            "num_examples": size,
            "num_classes": self.data.train.num_classes,
            "steps_per_epoch": per_epoch,
            "epochs": options.epochs,
            "total_steps": max(1, int(options.epochs * per_epoch)),
        }

    def _hint(self) -> str:
        """What to change if the teacher has other classes than the data."""
        theirs, ours = self.config.teacher.num_classes, self.data.train.num_classes
        if not theirs or theirs == ours:
            return ""
        return (
            f"; the teacher has {theirs} classes and the student {ours}, so set "
            "config.teacher.num_classes to 0 or compare features instead of logits"
        )

    # What is the same for several runs, and made once.

    @functools.cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def _compiled(self, name: str, make: Any) -> Algorithm:
        """The seeds of an arm share a compiled step."""
        if name not in self._made:
            layout = self.layout
            placed = {} if layout is None else {"mesh": layout.mesh, "rules": layout.rules}
            self._made[name] = parallel.compile(make(), **placed)
        return self._made[name]

    @functools.cached_property
    def layout(self) -> parallel.Layout | None:
        """Where arrays live; `None` on a single device."""
        sizes, batch_size = self.config.mesh.to_dict(), self.config.data.batch_size
        if jax.device_count() == 1 and set(sizes.values()) <= {-1, 1}:
            return None
        try:
            mesh = parallel.make_mesh(**sizes)
        except ValueError as error:
            raise RecipeError(f"config.mesh: {one_line(error)}") from error
        if batch_size % parallel.batch_shards(mesh):
            if jax.process_count() == 1 and sizes == schema.default().mesh.to_dict():
                return None
            raise RecipeError(
                f"config.data.batch_size is {batch_size}, wanted a multiple of the "
                f"{parallel.batch_shards(mesh)} devices along data and fsdp"
            )
        return parallel.Layout(mesh, recipe.build_rules(self.config.rules))

    def _evaluate(self, model: Model) -> loop.Evaluate:
        key = "evaluate", model
        if key not in self._made:
            self._made[key] = measuring.evaluator_of(
                model, self.data.watch[1], self.eval_batch_size, self.layout
            )
        evaluator = self._made[key]
        return lambda state: evaluator(state.players["student"].variables)

    def _teacher_test_logits(self, teacher: Frozen) -> np.ndarray:
        if CACHE in self.data.test.features:
            return self.data.test.arrays[CACHE]
        if "test" not in self._made:
            self._made["test"] = measuring.predict(
                teacher.model, teacher.variables, self.data.test, self.eval_batch_size
            )
        return self._made["test"]

    @functools.cached_property
    def _test_labels(self) -> np.ndarray:
        return measuring.labels_of(self.data.test, self.eval_batch_size)


__all__ = ["Data", "Experiment", "Frozen", "Job", "load_data", "run"]
