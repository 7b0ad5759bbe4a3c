"""The binaries, and the `kdjax` command that offers them as subcommands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

COMMANDS = {
    "train": "train a teacher, distil it into a student, evaluate, write a report",
    "evaluate": "measure a trained student (or the teacher) on the test set",
    "export": "write a trained student as an orbax checkpoint and as StableHLO",
    "plan": "compile a recipe's step ahead of time for a TPU: does it fit, what does it cost",
    "atlas": "run all methods of a family under one protocol, and write their page",
}
WRONG = 2
"""Exit status after an error that the user can mend; it is 143 after SIGTERM, as shells know it."""


def train(argv: list[str] | None = None) -> None:
    """`python -m kdjax.train --config=configs/digits/kd.py --workdir=DIR`."""
    argv = sys.argv if argv is None else argv
    config = _config_flag(argv)
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the run; a half-finished one resumes."
    )
    data_dir = flags.DEFINE_string(
        "data_dir", None, "Folder of prepared data (config.data.data_dir)."
    )
    source_dir = flags.DEFINE_string(
        "source_dir", None, "Folder with a data set's own files (config.data.source_dir)."
    )
    processes = _process_flags()
    flags.mark_flags_as_required(["config", "workdir"])

    def main() -> None:
        from kdjax.train import experiment

        _join(*(flag.value for flag in processes))

        recipe = config.value
        if data_dir.value:
            recipe.data.data_dir = data_dir.value
        if source_dir.value:
            recipe.data.source_dir = source_dir.value
        report = experiment.run(recipe, workdir.value)
        print(f"report: {report}")

    _run(main, argv)


def evaluate(argv: list[str] | None = None) -> None:
    """`python -m kdjax.evaluate --workdir=DIR --run=kd --seed=0`."""
    which = _run_flags()

    def main() -> None:
        import json

        from kdjax.train import deploy

        workdir, run, seed, data_dir = (flag.value for flag in which)
        print(json.dumps(deploy.evaluate(workdir, run, seed, data_dir=data_dir), indent=2))

    _run(main, argv)


def export(argv: list[str] | None = None) -> None:
    """`python -m kdjax.export --workdir=DIR --run=kd --seed=0 --output=OUT`."""
    which = _run_flags()
    output = flags.DEFINE_string("output", None, "Folder to write to; must not exist.")
    platforms = flags.DEFINE_list("platforms", "cpu,cuda,tpu", "What the StableHLO is lowered for.")
    quantize = flags.DEFINE_string(
        "quantize", None, "'int8' or 'int8_weights'; wants pip install 'kdjax[quantize]'."
    )
    flags.mark_flag_as_required("output")

    def main() -> None:
        from kdjax.train import deploy

        workdir, run, seed, data_dir = (flag.value for flag in which)
        targets = tuple(platforms.value)
        options = {"quantize": quantize.value, "data_dir": data_dir}
        for path in deploy.export(workdir, output.value, run, seed, targets, **options):
            print(path)

    _run(main, argv)


def plan(argv: list[str] | None = None) -> None:
    """`python -m kdjax.plan --config=configs/digits/kd.py --topology=v5e:4x4`."""
    argv = sys.argv if argv is None else argv
    config = _config_flag(argv)
    topology = flags.DEFINE_string("topology", None, "What to compile for: v5e:4x4, cpu, …")
    devices = flags.DEFINE_integer("devices", None, "How many devices, with --topology=cpu.")
    batch_size = flags.DEFINE_integer("batch_size", None, "Examples per step, not the recipe's.")
    sizes = [
        flags.DEFINE_integer(axis, None, f"Devices along {axis}; -1 for all that are left.")
        for axis in ("data", "fsdp", "tensor")
    ]
    compare = flags.DEFINE_string("compare", "", "Several meshes: data=-1;fsdp=-1;fsdp=4,tensor=4.")
    search = flags.DEFINE_enum(
        "search", "", ["", "powers", "multiples"], "Looks for the largest batch size that fits."
    )
    output = flags.DEFINE_string("output", "", "Folder for plan.json and plan.md.")
    flags.mark_flags_as_required(["config", "topology"])

    def main() -> None:
        import jax
        from ml_collections import config_flags

        from kdjax.plan import command
        from kdjax.train.errors import RecipeError, one_line

        # Nothing is run, and looking for accelerators takes long where there are none.
        jax.config.update("jax_platforms", "cpu")
        recipe = config.value
        if batch_size.value is not None:
            recipe.data.batch_size = batch_size.value
        try:
            command.run(
                config_flags.get_config_filename(flags.FLAGS["config"]),
                recipe,
                name=topology.value,
                devices=devices.value,
                sizes=command.chosen_sizes(flag.value for flag in sizes),
                compare=compare.value,
                search=search.value,
                output=output.value,
            )
        except ValueError as error:
            raise RecipeError(one_line(error, 2000)) from error

    _run(main, argv)


def atlas(argv: list[str] | None = None) -> None:
    """`python -m kdjax.atlas --family=logits --dataset=fashion_mnist --workdir=DIR`."""
    family = flags.DEFINE_string("family", None, "Which methods, a file in the folder of configs.")
    dataset = flags.DEFINE_string("dataset", "fashion_mnist", "Which protocol, likewise.")
    workdir = flags.DEFINE_string("workdir", None, "Folder of the runs; half-finished ones resume.")
    methods = flags.DEFINE_list("methods", [], "Only these methods.")
    seeds = flags.DEFINE_list("seeds", [], "Seeds, instead of the protocol's.")
    scale = flags.DEFINE_float("scale", 1.0, "Share of the budget that is spent.")
    results = flags.DEFINE_string("results", "", "Folder of the small files that are kept.")
    configs = flags.DEFINE_string("configs", "", "Folder of protocols and families.")
    render = flags.DEFINE_bool("render", False, "Only write the page, from the files there are.")
    pages = flags.DEFINE_string("pages", "", "Folder of the page.")
    flags.mark_flag_as_required("family")

    def main() -> None:
        from kdjax.atlas import command
        from kdjax.train.errors import RecipeError

        if render.value:
            print(command.render(family.value, results.value, pages.value, configs.value))
            return
        if not workdir.value:
            raise RecipeError("--workdir is missing, wanted the folder of the runs")
        chosen = {"methods": methods.value, "seeds": seeds.value, "scale": scale.value}
        where = {"results": results.value, "configs": configs.value}
        print(command.train(family.value, dataset.value, workdir.value, **chosen, **where))

    _run(main, argv)


def main(argv: list[str] | None = None) -> None:
    """The `kdjax` command."""
    _, *arguments = sys.argv if argv is None else argv
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        globals()[name]([f"kdjax {name}", *arguments[1:]])
        return
    if name not in ("", "-h", "--help", "help"):
        from kdjax.losses.numerics import nearest

        _fail(f"kdjax has no command {name!r}{nearest(name, COMMANDS)}")
    width = max(map(len, COMMANDS))
    print("usage: kdjax COMMAND [flags]; kdjax COMMAND --help shows the flags\n")
    print("\n".join(f"  {command:{width}}  {text}" for command, text in COMMANDS.items()))


def _process_flags() -> tuple[flags.FlagHolder, ...]:
    together = flags.DEFINE_bool(
        "distributed",
        False,
        "One job over several processes, found from the environment (TPU pods).",
    )
    coordinator = flags.DEFINE_string(
        "coordinator", None, "host:port of the first of several processes."
    )
    count = flags.DEFINE_integer("processes", None, "How many processes there are.")
    index = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")
    return together, coordinator, count, index


def _join(together: bool, coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the processes of a job, if there are to be several."""
    if not together and coordinator is None and count is None and index is None:
        return
    from kdjax.train import processes

    processes.initialize(coordinator, count, index)


def _run_flags() -> tuple[flags.FlagHolder, ...]:
    workdir = flags.DEFINE_string("workdir", None, "Folder of a finished run.")
    run = flags.DEFINE_string("run", None, "Which way of training; the objective's own by default.")
    seed = flags.DEFINE_integer("seed", None, "Which seed; the first by default.")
    data_dir = flags.DEFINE_string("data_dir", None, "Folder of prepared data, if it has moved.")
    flags.mark_flag_as_required("workdir")
    return workdir, run, seed, data_dir


def _config_flag(argv: list[str]) -> flags.FlagHolder:
    from ml_collections import config_flags

    config = config_flags.DEFINE_config_file(
        "config", None, "The recipe, a Python file.", sys_argv=argv
    )
    flags.FLAGS["config"].parser = _recipe_parser(argv)
    return config


def _recipe_parser(argv: list[str]) -> flags.ArgumentParser:
    """What loads the config file, instead of ml_collections: its errors are one line."""
    from kdjax.train.recipe_file import check_overrides, load_recipe

    class RecipeParser(flags.ArgumentParser):
        def parse(self, path):
            config = load_recipe(path)
            check_overrides(config, argv)
            config.lock()
            return config

        def flag_type(self):
            return "config file"

    return RecipeParser()


def _run(main: Callable[[], None], argv: list[str] | None) -> None:
    """Runs under absl; errors that a user can mend are one line."""
    # What libraries say while they work is theirs; ours is the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def guarded(_: list[str]) -> None:
        from kdjax.data import DataError
        from kdjax.train.errors import STORAGE, RecipeError, one_line
        from kdjax.train.loop import NonFiniteLoss
        from kdjax.train.stopping import Interrupted

        if not flags.FLAGS["verbosity"].present:
            # What libraries log as an error, page by page, they raise as well.
            logging.set_verbosity(logging.FATAL)
        try:
            main()
        except (RecipeError, NonFiniteLoss, DataError) as error:
            _fail(one_line(error, 2000))
        except OSError as error:
            if error.errno not in STORAGE:
                raise
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror}; mend it and run the same command again")
        except Interrupted as stopped:
            print(f"{stopped}; run the same command again to go on", file=sys.stderr)
            sys.exit(stopped.status)

    app.run(guarded, argv=argv, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; an error in them is one line."""
    from kdjax.train.errors import RecipeError, one_line

    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, KeyError, AttributeError, ValueError, TypeError) as error:
        # absl puts an error of its own around what a parser raises.
        cause = error.__context__ if isinstance(error.__context__, RecipeError) else error
        _fail(one_line(cause, 2000).removeprefix("flag "))
    if rest[1:]:
        _fail(f"unknown argument {rest[1]!r}; flags begin with --")
    return rest


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(WRONG)
