"""What a recipe comes to on its data: networks, algorithms, batches. Nothing is trained here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import kdjax
from kdjax import data, losses, models, objectives, parallel
from kdjax.base import Algorithm, Model, Variables
from kdjax.data import Dataset
from kdjax.train import augmentation, lineage, lookup, networks, optimizers, recipe, schema
from kdjax.train.arms import TEACHER, Arm, arms_of
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.lineage import Frozen
from kdjax.train.splits import CACHE, LABELLED, Data


@dataclasses.dataclass
class Design:
    """One recipe on loaded data.

    Attributes:
      config: the recipe.
      data: its splits; where they hold the teacher's logits already (in the column
        `splits.CACHE`), these are taken.
    """

    config: ConfigDict
    data: Data

    @functools.cached_property
    def arms(self) -> dict[str, Arm]:
        """The ways to train the student: baselines, then the objective itself."""
        return arms_of(self.config)

    @functools.cached_property
    def teacher_model(self) -> Model:
        """The teacher's network, one member's if it is a committee."""
        classes = self.config.teacher.num_classes or self.data.train.num_classes
        arms = [arm.options for arm in self.arms.values() if not arm.taught_by]
        taps = lookup.wanted_taps(arms)[TEACHER]
        facts = {"num_classes": classes}
        return networks.build_model("teacher.model", self.config.teacher.model, facts, taps)

    def model_of(self, name: str) -> Model:
        """The network of a run; arms without one of their own share the student's."""
        if name == TEACHER:
            return self.teacher_model
        arm = self.arms[name]
        own = bool(arm.options.get("model"))
        alike = [arm] if own else [a for a in self.arms.values() if not a.options.get("model")]
        pupils = [a.options for a in self.arms.values() if name in a.taught_by]
        taps = lookup.wanted_taps(a.options for a in alike)["student"]
        taps = tuple(dict.fromkeys([*taps, *lookup.wanted_taps(pupils)[TEACHER]]))
        key = "model", name if own else "", taps
        if key not in self.made:
            section = f"{arm.section}.model" if own else "student.model"
            facts = {"num_classes": self.data.train.num_classes}
            self.made[key] = networks.build_model(section, self.network_of(name), facts, taps)
        return self.made[key]

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

    def check(self) -> None:
        """Traces each way to train, without training: shapes, names and options must fit.

        Raises:
          RecipeError: one line that says what to change.
        """
        if self.needs_teacher and not self.config.teacher.checkpoint:
            self.teacher_algorithm()
        for name, arm in self.arms.items():
            try:
                algorithm, batch, frozen = self.step_of(name)

                def trace(frozen, start, algorithm=algorithm, batch=batch):
                    state = algorithm.init(jax.random.key(0), batch, frozen, start)
                    return algorithm.step(state, batch, frozen)

                jax.eval_shape(trace, frozen, lineage.start(arm, self.abstract))
            except RecipeError:
                raise
            except (ValueError, TypeError, KeyError) as error:
                raise RecipeError(
                    f"config.{arm.section}: {one_line(error)}{self._hint()}"
                ) from error

    def step_of(self, name: str) -> tuple[Algorithm, dict[str, Any], dict[str, Variables]]:
        """An arm's algorithm, a batch of its shapes, and the shapes of its frozen variables."""
        arm = self.arms[name]
        teacher = lineage.guide(arm, self.abstract_teacher, self.abstract)
        batch = self._example_batch(arm, teacher)
        return self.algorithm(arm, teacher), batch, self.frozen(arm, teacher)

    # Algorithms.

    def teacher_algorithm(self) -> Algorithm:
        """What the teacher is trained with: cross-entropy with the labels."""
        options = self.config.teacher
        facts = self.facts(options, self.teacher_data)
        objective = objectives.measured(
            kdjax.lift(losses.cross_entropy, label_smoothing=options.label_smoothing),
            accuracy=objectives.correct,
        )
        optimizer = optimizers.build_optimizer(
            "teacher.optimizer", options.optimizer, facts["total_steps"]
        )
        augment = augmentation.build("teacher.augment", options.augment, facts)
        guards = schema.guards_of(self.config)
        return kdjax.algorithms.distill(
            self.teacher_model, None, objective, optimizer, augment=augment, guards=guards
        )

    def algorithm(
        self, arm: Arm, teacher: Frozen | None, find: lineage.Find | None = None
    ) -> Algorithm:
        """The algorithm of an arm.

        Args:
          arm: which.
          teacher: who teaches it.
          find: other runs; without it, the algorithm is one to take shapes from.
        """
        facts = self.facts(self.config.student)
        if self.config.data.labelled < 1:
            facts[LABELLED] = LABELLED
        if teacher is not None and teacher.members > 1:
            own = [self.model_of(name) for name in arm.taught_by]
            facts["committee"] = own or [self.teacher_model] * teacher.members
            facts["members"] = teacher.members
        chosen = lineage.fitted(
            arm,
            teacher,
            find or self.abstract,
            self.data,
            self.eval_batch_size,
            abstract=find is None,
        )
        optimizer = optimizers.build_optimizer(
            "student.optimizer", self.config.student.optimizer, facts["total_steps"]
        )
        guide = None
        if arm.needs_teacher and teacher is not None:
            guide = models.from_batch({"logits": CACHE}) if self.cached(arm) else teacher.model
        options: dict[str, Any] = {
            "augment": self.augmentation(arm, facts),
            "guards": schema.guards_of(self.config),
        }
        if not arm.wants_validation:
            options["microbatches"] = self.config.microbatches
        return recipe.build_algorithm(
            arm.section, chosen, self.model_of(arm.name), guide, optimizer, facts, **options
        )

    def augment_options(self, arm: Arm) -> tuple[str, Any]:
        """Where the arm's augmentation is described, and how."""
        if "augment" in arm.options:
            return f"{arm.section}.augment", arm.options["augment"]
        return "student.augment", self.config.student.augment

    def augmentation(self, arm: Arm, facts: Mapping[str, Any]) -> Any:
        """The arm's augmentation; repeatable where the teacher's answers to it are kept."""
        made = augmentation.build(*self.augment_options(arm), facts)
        return data.repeatable(made) if made is not None and self.cached(arm) else made

    def cached(self, arm: Arm) -> bool:
        """Whether the teacher's logits are computed once and read from the batch."""
        options, augment = self.config.teacher, self.augment_options(arm)[1]
        fixed = not augment or options.cache_views > 0
        return bool(options.cache) and arm.needs_teacher and arm.reads_logits_only and fixed

    def frozen(self, arm: Arm, teacher: Frozen | None) -> dict[str, Variables]:
        """The variables that an arm's step reads and does not train."""
        if teacher is None or not arm.needs_teacher or self.cached(arm):
            return {}
        return {"teacher": teacher.variables}

    # Teachers and data.

    def committee(self, members: list[Variables]) -> Frozen:
        """The recipe's teacher, of the variables of each member."""
        return lineage.together([self.teacher_model] * len(members), members)

    def abstract(self, name: str) -> tuple[Model, Variables]:
        """Model of a run, and the shapes of its variables."""
        model = self.model_of(name)
        return model, jax.eval_shape(model.init, jax.random.key(0), self.rows(self.data.train))

    @functools.cached_property
    def abstract_teacher(self) -> Frozen:
        """The recipe's teacher, with the shapes of its variables."""
        return self.committee([self.abstract(TEACHER)[1]] * self.config.teacher.members)

    @property
    def teacher_data(self) -> Dataset:
        """What the teacher learns from."""
        return self.data.train if self.data.teacher is None else self.data.teacher

    def rows(self, dataset: Dataset) -> dict[str, Any]:
        """A batch of a data set, to take shapes from."""
        rows = np.arange(self.config.data.batch_size) % dataset.size
        return {name: jnp.asarray(value) for name, value in dataset.take(rows).items()}

    def _example_batch(self, arm: Arm, teacher: Frozen) -> dict[str, Any]:
        """A batch with all that an arm reads, without the teacher having been trained."""
        batch = self.rows(self.data.train)
        if self.cached(arm):
            signals, _ = jax.eval_shape(teacher.model.apply, teacher.variables, batch)
            batch[CACHE] = jnp.zeros(signals["logits"].shape)
            if self.augment_options(arm)[1]:
                batch["view"] = jnp.zeros(len(batch["id"]), jnp.int32)
        if arm.wants_validation:
            if self.data.validation is None:
                raise RecipeError(
                    f"config.data.validation is empty; {arm.scheme} wants a validation split"
                )
            batch["validation"] = self.rows(self.data.validation)
        return batch

    def facts(self, options: Any, train: Dataset | None = None) -> dict[str, Any]:
        """What is known of a training: numbers of examples, classes, steps, epochs.

        Raises:
          RecipeError: there are fewer examples than a batch has.
        """
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
    def made(self) -> dict[str, Any]:
        """By key."""
        return {}

    def compiled(self, name: str, make: Any) -> Algorithm:
        """The seeds of an arm share a compiled step."""
        if name not in self.made:
            layout = self.layout
            placed = {} if layout is None else {"mesh": layout.mesh, "rules": layout.rules}
            self.made[name] = parallel.compile(make(), **placed)
        return self.made[name]

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
