"""What a recipe's config holds: sections, keys and their defaults."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from kdjax.algorithms import Guards
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.options import check_keys

OPEN = ("teacher.model", "teacher.augment", "student.model", "student.augment")
OPEN += ("objective", "baselines", "rules")
"""Sections whose keys depend on what they name; they are checked where that is built."""
_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    ConfigDict: "a section with keys of its own",
}


def default() -> ConfigDict:
    """A config with every key; recipes start from it and change what they need.

    Sections:
      data: `name` (`digits`, `fashion_mnist`, any of tensorflow-datasets), splits `train`,
        `validation` (empty for none) and `test`, `batch_size`, `eval_batch_size`, `data_dir`,
        `source_dir`, `classes` (groups of labels, each of which is one class, `((0, 2), (1, 3))`;
        empty for the labels as they are), `test_shift` (pixels by which test images are shifted at
        most), `label_noise` (share of the training labels replaced by another class),
        `labelled` (share of the training examples whose label is known: below 1 a batch has the
        field `labelled`, and `label_weight` counts such examples alone), `timeout` (seconds after
        which a batch that does not arrive ends the job, 0 for none), `on_device` (training sets
        lie in the device's memory, where the steps take their rows; faster where a step takes a few
        milliseconds or less. A teacher's answers to several views still come from the host).
      teacher: `model` (a network of `kdjax.models` with its options), `epochs`, `optimizer`,
        `augment`, `label_smoothing`, `seed`, `members` (a committee if above 1), `train` (a split
        of its own, with clean labels; empty for the student's), `cache` (compute its logits
        once and keep them in the workdir, where nothing is augmented), `cache_views` (with `cache`:
        where something is augmented, each example has so many pictures, whose answers are kept
        likewise; 0 makes new ones at each step and asks the teacher), `checkpoint` (a run's folder
        to load it from instead of training), `num_classes` (0: those of the data).
      student: `model`, `epochs`, `optimizer`, `augment`, `steps_per_call` (how many are made in one
        call of the compiled program: above 1 it saves time where a step takes a few milliseconds
        or less; not for convolutions on a CPU, which are slow inside of a compiled loop).
      objective: how the student is trained. `name` of a loss or objective with its options;
        `weight`, `label_weight`, `smoothing` of the labels, `projector`; or `algorithm`, a training
        scheme. `model` is a student of its own; `taught_by` names runs whose students teach it, in
        place of the teacher; `starts_from` a run (or `'teacher'`) whose variables it starts from.
        An option may be a schedule, `{'schedule': 'linear_schedule', …}`, or fitted before
        training, `{'fit': 'class_centers'}`.
      baselines: other ways to train it, by name, for comparison.
      mesh: devices along the axes `data`, `fsdp` and `tensor` (see `kdjax.parallel.make_mesh`).
      rules: how variables are split, by role (`student`, `teacher`): pairs of a path pattern and
        mesh axes, `(('head/kernel', (None, 'tensor')),)`; the automatic rule does the rest.
      main: what the objective's runs are called; its name by default.
      seeds: a run of each way per seed.
      microbatches: parts that a batch is computed in.
      guards: `non_finite`, what happens to a gradient with a NaN or an infinity in it: `'raise'`
        stops the run, `'skip'` leaves the update out, `'zero'` puts 0 in their place; `spike`, how
        many times the median a gradient's norm may be before it is written down, 0 for no look.
      select: `'last'` reports the last parameters, `'best'` those that were best in validation.
    """
    config = ConfigDict()
    config.title = ""
    config.data = ConfigDict(
        {
            "name": "digits",
            "train": "train",
            "validation": "",
            "test": "test",
            "batch_size": 128,
            "eval_batch_size": 1000,
            "data_dir": "",
            "source_dir": "",
            "classes": (),
            "test_shift": 0,
            "label_noise": 0.0,
            "labelled": 1.0,
            "timeout": 600.0,
            "on_device": False,
        }
    )
    optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05}
    config.teacher = ConfigDict(
        {
            "model": {},
            "epochs": 1.0,
            "optimizer": optimizer,
            "augment": {},
            "label_smoothing": 0.0,
            "seed": 1000,
            "members": 1,
            "train": "",
            "cache": False,
            "cache_views": 0,
            "checkpoint": "",
            "num_classes": 0,
        }
    )
    config.student = ConfigDict(
        {"model": {}, "epochs": 1.0, "optimizer": optimizer, "augment": {}, "steps_per_call": 1}
    )
    config.objective = ConfigDict({"name": "kd"})
    config.baselines = ConfigDict({"labels": {"name": "cross_entropy"}})
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.rules = ConfigDict()
    config.main = ""
    config.seeds = (0, 1, 2)
    config.select = "last"
    config.microbatches = 1
    config.guards = ConfigDict({"non_finite": "raise", "spike": 0.0})
    config.log_every = 50
    config.evaluate_every_epochs = 1.0
    config.checkpoint = ConfigDict({"every_steps": 500, "keep": 2})
    return config


def checked(config: ConfigDict) -> ConfigDict:
    """The config, with every key known and every value possible.

    Raises:
      RecipeError: one line that says what to change.
    """
    known = default()
    _check_section((), config, known)
    _positive(config)
    for role in ("teacher", "student"):
        if not config[role].model.get("name"):
            raise RecipeError(f"config.{role}.model has no name; name a network of kdjax.models")
    if not 0 <= config.data.label_noise <= 1:
        raise RecipeError(f"config.data.label_noise is {config.data.label_noise}, wanted 0 to 1")
    if config.data.test_shift < 0:
        raise RecipeError(f"config.data.test_shift is {config.data.test_shift}, wanted 0 or more")
    if not 0 < config.data.labelled <= 1:
        raise RecipeError(f"config.data.labelled is {config.data.labelled}, wanted above 0 to 1")
    if not 0 <= config.data.timeout < float("inf"):
        raise RecipeError(
            f"config.data.timeout is {config.data.timeout}, wanted seconds, or 0 for none"
        )
    guards_of(config)
    if config.select not in ("last", "best"):
        raise RecipeError(f"config.select is {config.select!r}, wanted 'last' or 'best'")
    if config.select == "best" and not config.data.validation:
        raise RecipeError("config.select is 'best'; name a split in config.data.validation for it")
    if not config.seeds:
        raise RecipeError("config.seeds is empty, wanted at least one seed")
    views = config.teacher.cache_views
    if views < 0 or (views and not config.teacher.cache):
        raise RecipeError(
            f"config.teacher.cache_views is {views}, wanted at least 0, and 0 without teacher.cache"
        )
    if config.teacher.checkpoint and config.teacher.members > 1:
        raise RecipeError(
            "config.teacher.checkpoint names one teacher; set config.teacher.members to 1"
        )
    return config


def guards_of(config: ConfigDict) -> Guards:
    """The guards of the gradients.

    Raises:
      RecipeError: one line that says what to change.
    """
    try:
        return Guards(**config.guards)
    except ValueError as error:
        raise RecipeError(f"config.guards.{one_line(error)}") from error


def _check_section(path: tuple[str, ...], given: ConfigDict, known: ConfigDict) -> None:
    """Keys and types of a section with fixed keys, and of those below."""
    section = ".".join(path)
    if not section.endswith("optimizer"):  # it takes any option of its optax function
        check_keys(section, given, known)
    for key, wanted in known.items():
        name = ".".join([*path, key])
        if key not in given:
            if not section.endswith("optimizer"):
                raise RecipeError(
                    f"config.{name} is missing; start from kdjax.train.schema.default"
                )
            continue
        if not _fits(given[key], wanted):
            raise RecipeError(f"config.{name} is {given[key]!r}, wanted {_KINDS[type(wanted)]}")
        if isinstance(wanted, ConfigDict) and name not in OPEN:
            _check_section((*path, key), given[key], wanted)
    if path == () and not all(_fits(seed, 0) and seed >= 0 for seed in given.seeds):
        raise RecipeError(f"config.seeds is {given.seeds!r}, wanted integers of at least 0")


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return isinstance(wanted, bool) and isinstance(value, bool)
    if isinstance(wanted, float):
        return isinstance(value, int | float)
    return isinstance(value, (tuple, list) if isinstance(wanted, tuple) else type(wanted))


def _positive(config: ConfigDict) -> None:
    values = {
        "data.batch_size": config.data.batch_size,
        "data.eval_batch_size": config.data.eval_batch_size,
        "teacher.epochs": config.teacher.epochs,
        "teacher.members": config.teacher.members,
        "student.epochs": config.student.epochs,
        "microbatches": config.microbatches,
        "student.steps_per_call": config.student.steps_per_call,
        "log_every": config.log_every,
        "evaluate_every_epochs": config.evaluate_every_epochs,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep": config.checkpoint.keep,
    }
    for name, value in values.items():
        if not value > 0:
            raise RecipeError(f"config.{name} is {value}, wanted a number above 0")
