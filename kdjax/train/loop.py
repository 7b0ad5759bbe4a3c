"""The loop: steps, metrics, evaluation, checkpoints, and a clean end whatever happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.algorithms import Guards
from kdjax.algorithms.guards import BROKEN, COUNTERS, NORM
from kdjax.base import Algorithm, PyTree, TrainState
from kdjax.data import BatchIterator
from kdjax.data.device import feed
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.checksums import checksum
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.logging import MetricWriter, Progress
from kdjax.train.processes import StopInStep
from kdjax.train.spikes import SpikeFinder
from kdjax.train.stopping import Stop, stop_on_signals

Evaluate = Callable[[TrainState], Mapping[str, float]]


class NonFiniteLoss(RuntimeError):
    """Training broke down; names the step, the batch and the last good checkpoint."""


class Budget(NamedTuple):
    """How long a run is and how often it looks up.

    Attributes:
      steps: updates in all.
      log_every: steps between rows of metrics.
      evaluate_every: steps between evaluations.
      save_every: steps between checkpoints.
      keep: checkpoints kept.
      steps_per_call: steps that are made in one call of the compiled program, where nobody looks up
        in between. The calls are cut where the step is a multiple of this, so that a run that goes
        on makes the same ones.
      best: metric of the evaluation by which the best checkpoint is kept as well, or `None`. With
        it, each evaluation is followed by a checkpoint.
    """

    steps: int
    log_every: int = 50
    evaluate_every: int = 500
    save_every: int = 500
    keep: int = 2
    best: str | None = None
    steps_per_call: int = 1

    def steps_of_call(self, step: int) -> int:
        """How many steps the next call makes after this step."""
        looks = (self.log_every, self.evaluate_every, self.save_every)
        following = min(self.steps, *((step // every + 1) * every for every in looks))
        several = step % self.steps_per_call == 0 and step + self.steps_per_call <= following
        return self.steps_per_call if several else 1


class Outcome(NamedTuple):
    """A finished run: its last state, and how long it trained over all its restarts."""

    state: TrainState
    seconds: float
    examples_per_second: float


def fit(
    algorithm: Algorithm,
    state: TrainState,
    iterator: BatchIterator,
    budget: Budget,
    folder: Path,
    *,
    frozen: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    split: str = "test",
    description: str = "",
    batch_size: int = 0,
    main_player: str = "",
    sharding: Any = None,
    stop: Stop | None = None,
    guards: Guards | None = None,
) -> Outcome:
    """Trains from the newest checkpoint in the folder, or from the start, to the end.

    The end does not depend on interruptions: data position, randomness, optimiser and objective
    state and the metrics not yet written all come from the checkpoint.

    Args:
      algorithm: compiled.
      state: where to start without a checkpoint.
      iterator: of training batches.
      budget: how long, how often.
      folder: gets `metrics.jsonl`, `checkpoints/`, `tensorboard/`.
      frozen: variables of the frozen teachers.
      evaluate: `evaluate(state) -> metrics`, run now and then and at the end.
      split: what `evaluate` measures on, for the rows of metrics.
      description: of the progress bar.
      batch_size: examples per step, for rates.
      main_player: the player whose loss and accuracy are shown, where several play.
      sharding: of batches over devices.
      stop: asks the run to end early; by default SIGTERM and SIGINT do.
      guards: those that the algorithm was made with. Losses that are not finite stop the run under
        `'raise'` only, which is the default; each spike of a gradient's norm gets a row of metrics
        with the split `spike`.

    Returns:
      The last state and the time it took.

    Raises:
      Interrupted: if it was asked to stop; a checkpoint was saved.
      NonFiniteLoss: if a loss, a gradient or the parameters are no longer finite; these are not
        saved.
      CheckpointError: if there are checkpoints, but none can be read.
      RecipeError: if the data are not those of the checkpoint.
      ValueError: for several steps per call of an algorithm that cannot make them.
    """
    if budget.steps_per_call > 1 and algorithm.several is None:
        raise ValueError(
            f"budget.steps_per_call is {budget.steps_per_call}, wanted 1 for an algorithm without "
            "`several`; make it with kdjax.parallel.compile"
        )
    listening = stop_on_signals() if stop is None else nullcontext(stop)
    resuming = Checkpoints(folder / "checkpoints", keep=budget.keep, metric=budget.best)
    with listening as stop, resuming as keeper:
        guards = Guards() if guards is None else guards
        run = _Run(algorithm, frozen or {}, budget, keeper, main_player, guards)
        run.batches = feed(iterator, sharding)
        run.start(state)
        resumed = run.step or None
        with (
            MetricWriter(folder, resume_step=resumed) as writer,
            Progress(
                budget.steps, description, initial=run.step, examples_per_step=batch_size
            ) as progress,
        ):
            run.go(writer, progress, evaluate, split, stop)
    rate = run.trained_steps * batch_size / run.seconds if run.seconds else 0.0
    return Outcome(run.state, run.seconds, rate)


class _Call(NamedTuple):
    """What a call of the compiled program gave: its last step, and where its batches begin."""

    step: int
    metrics: dict[str, jax.Array]
    positions: list[Any]

    def rows(self) -> list[tuple[int, dict[str, float], Any]]:
        """Each step with its metrics and the position of its batch; waits for the device."""
        # A third of what jax.device_get takes for scalars.
        columns = {
            name: np.asarray(value, np.float64).reshape(-1).tolist()
            for name, value in self.metrics.items()
        }
        first = self.step - len(self.positions) + 1
        return [
            (first + index, {name: values[index] for name, values in columns.items()}, position)
            for index, position in enumerate(self.positions)
        ]


class _Run:
    """The moving parts of one `fit`.

    Steps run ahead of the host: the metrics of each call wait in `pending` on the device until
    somebody wants them, then in `window` until the next row is written.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        frozen: Mapping[str, Any],
        budget: Budget,
        keeper: Checkpoints,
        main_player: str,
        guards: Guards,
    ):
        self.algorithm, self.frozen, self.budget, self.keeper = algorithm, frozen, budget, keeper
        self.prefix = f"{main_player}/" if main_player else ""
        self.guards, self.spikes = guards, SpikeFinder(guards.spike)
        self.pending: list[_Call] = []
        self.window: list[dict[str, float]] = []
        self.step, self.seconds, self.trained_steps = 0, 0.0, 0
        self.position = None  # of the data, before the last step
        self.warm: set[int] = set()  # calls that are compiled, by their number of steps

    def start(self, state: TrainState) -> None:
        """Takes the newest checkpoint, if there is one."""
        restored = self.keeper.restore_latest(state)
        if restored is None:
            self.state = state
            return
        self.step, self.state, loop = restored
        try:
            self.batches.set_state(loop["data"])
        except ValueError as error:
            raise RecipeError(
                f"{self.keeper.folder.parent} was trained on other data ({one_line(error, 200)}); "
                "bring them back or choose another --workdir"
            ) from error
        self.seconds, self.trained_steps = loop["seconds"], loop["trained_steps"]
        self.window = loop["window"]
        self.spikes = SpikeFinder(self.guards.spike, loop.get("norms"))

    def go(self, writer: MetricWriter, progress: Progress, evaluate, split, stop: Stop) -> None:
        """Steps until the end, or until asked to stop."""
        budget, together = self.budget, StopInStep(stop)
        while self.step < budget.steps:
            self._advance(progress)
            last, metrics = self.step == budget.steps, None
            evaluates = evaluate and (last or self.step % budget.evaluate_every == 0)
            if last or evaluates or self.step % budget.log_every == 0:
                self._write_row(writer)
            if evaluates:
                metrics = evaluate(self.state)
                writer.write(self.step, split, metrics)
            best = metrics is not None and budget.best is not None
            asked = together.asked()
            if last or best or asked or self.step % budget.save_every == 0:
                self._save(writer, metrics)
            if asked and not last:
                self.keeper.wait()
                stop.check(f"at step {self.step}, checkpoint saved")
        self.keeper.wait()

    def _advance(self, progress: Progress) -> None:
        begun = time.perf_counter()
        count, positions, batches = self.budget.steps_of_call(self.step), [], []
        for _ in range(count):
            positions.append(self.batches.get_state())
            batches.append(next(self.batches))
        self.position = positions[-1]
        if count == 1:
            self.state, metrics = self.algorithm.step(self.state, batches[0], self.frozen)
        else:
            self.state, metrics = self.algorithm.several(self.state, tuple(batches), self.frozen)
        self.step += count
        self.pending.append(_Call(self.step, metrics, positions))
        shown = ((name, metrics.get(self.prefix + name)) for name in ("loss", "accuracy"))
        progress.update(count, **{name: value for name, value in shown if value is not None})
        if len(self.pending) > 2:
            # Not to run ahead of the device: wait for the call before the last one.
            jax.block_until_ready(self.pending[-3].metrics)
        if count in self.warm:
            self.seconds += time.perf_counter() - begun
            self.trained_steps += count
        else:  # the first call compiles, which is not training
            jax.block_until_ready(metrics)
            self.warm.add(count)

    def _collect(self, writer: MetricWriter) -> None:
        """Fetches the pending metrics; looks for what broke and for spikes."""
        begun = time.perf_counter()
        fetched = [row for call in self.pending for row in call.rows()]
        self.seconds += time.perf_counter() - begun
        self.pending = []
        for step, metrics, position in fetched:
            if self.guards.non_finite == "raise":
                self._check(step, metrics, position)
            self._write_spikes(writer, step, metrics, position)
            self.window.append({name: v for name, v in metrics.items() if _kind(name) != BROKEN})

    def _check(self, step: int, metrics: Mapping[str, Any], position: Any) -> None:
        """Stops at a loss or a gradient that is not finite."""
        for name, value in metrics.items():
            # A player whose turn it is not reports NaN; the main one plays at each step.
            main = name == f"{self.prefix}loss"
            if _kind(name) == "loss" and (math.isinf(value) or (main and math.isnan(value))):
                raise self._broken(f"{name} is {value} at step {step}", position)
        for name, value in metrics.items():
            if _kind(name) == BROKEN and value == 1:
                whose = name.removesuffix(BROKEN).removesuffix("/")
                whose = f"the gradient of {whose}" if whose else "the gradient"
                raise self._broken(f"{whose} is not finite at step {step}", position)

    def _write_spikes(
        self, writer: MetricWriter, step: int, metrics: Mapping[str, Any], position: Any
    ) -> None:
        """A row for each norm that is far above the usual."""
        for name, value in metrics.items():
            if _kind(name) != NORM:
                continue
            median = self.spikes.median_under(name, value)
            if median is not None:
                player = name.removesuffix(NORM).removesuffix("/")
                whose = {"player": player} if player else {}
                row = {**whose, "norm": value, "median": median, "batch": self._batch_at(position)}
                writer.write(step, "spike", row)

    def _batch_at(self, position: Any) -> str:
        """The fingerprint of the batch at a position; the batches go on where they were."""
        now = self.batches.get_state()
        self.batches.set_state(position)
        found = checksum(next(self.batches))
        self.batches.set_state(now)
        return found

    def _write_row(self, writer: MetricWriter) -> None:
        """Writes the mean of each metric since the last row."""
        self._collect(writer)
        names = dict.fromkeys(name for metrics in self.window for name in metrics)
        means = {
            name.removeprefix(self.prefix): _of_row(
                name, [m[name] for m in self.window if name in m]
            )
            for name in names
        }
        writer.write(self.step, "train", means)
        self.window.clear()

    def _save(self, writer: MetricWriter, metrics: Mapping[str, float] | None) -> None:
        self._collect(writer)
        if not _all_finite(_learned(self.state)):
            raise self._broken(
                f"the parameters are not finite after step {self.step}", self.position
            )
        loop = {
            "data": self.batches.get_state(),
            "seconds": self.seconds,
            "trained_steps": self.trained_steps,
            "window": list(self.window),  # written in the background, while it goes on growing
            "norms": self.spikes.state,
        }
        self.keeper.save(self.step, self.state, loop, metrics)

    def _broken(self, what: str, position: Any) -> NonFiniteLoss:
        self.keeper.wait()
        good, batch = self.keeper.latest_step, self._batch_at(position)
        last = "there is no checkpoint" if good is None else f"last good checkpoint at step {good}"
        return NonFiniteLoss(
            f"{what}, batch fingerprint {batch}, {last}; lower the learning rate or look at the "
            "data"
        )


def _learned(state: TrainState) -> PyTree:
    """What a model's output depends on."""
    return [[p.params, p.model_state] for p in state.players.values()], state.averages


@jax.jit
def _all_finite(tree: PyTree) -> jax.Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in floats] or [True]).all()


def _kind(name: str) -> str:
    """A metric's name without the player's."""
    return name.rpartition("/")[2]


def _of_row(name: str, values: list[float]) -> float:
    """The mean since the last row; of what counts from the start, the newest."""
    return values[-1] if _kind(name) in COUNTERS else _mean(values)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return sum(finite) / len(finite) if finite else float("nan")
