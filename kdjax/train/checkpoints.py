"""Checkpoints of a run: the train state, where the data stand, and what the loop remembers."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from kdjax.base import PyTree, TrainState, Variables
from kdjax.train import processes
from kdjax.train.checksums import checksum
from kdjax.train.errors import CheckpointError, one_line, why_not_written

STATE, LOOP = "state", "loop"
PATIENCE = 10.0
"""Seconds for which writes of a save that failed may go on in the background."""


class Restored(NamedTuple):
    """What a checkpoint held: `loop` is a JSON-able dict with the data position among others."""

    step: int
    state: TrainState
    loop: dict[str, Any]


class Checkpoints:
    """Checkpoints of one run in a folder; saving goes on in the background and is atomic.

    A checkpoint is written under another name and takes its own when it is whole. It carries
    checksums of its arrays and of what the loop remembers, which are compared when it is read.

    Args:
      folder: made if missing.
      keep: how many of the newest to keep; the best one is kept besides.
      metric: by which the best is chosen, the higher the better; `None` for none.
      read_only: to look only; nothing in the folder is changed, it must exist.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        metric: str | None = None,
        read_only: bool = False,
    ):
        self.folder, self._metric = Path(folder).absolute(), metric
        options: dict[str, Any] = {"read_only": True}
        if not read_only:
            with self._writing():
                self._clear_unfinished("*")
            policy = _preservation(keep, metric)
            options = {"preservation_policy": policy, "cleanup_tmp_directories": True}
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=None if metric is None else lambda metrics: metrics[metric], **options
            ),
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                LOOP: ocp.JsonCheckpointHandler(),
            },
        )

    @property
    def steps(self) -> list[int]:
        """The steps there are checkpoints of, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The newest step saved, `None` if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the best metric, `None` if none was saved with a metric."""
        return self._manager.best_step()

    def save(
        self,
        step: int,
        state: TrainState,
        loop: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns as soon as the arrays are copied.

        Raises:
          CheckpointError: this one, or the one before it, cannot be written.
        """
        if step == self.latest_step:
            return
        state = _without_key_type(state)
        items = {
            STATE: ocp.args.StandardSave(state),
            LOOP: ocp.args.JsonSave({**loop, "checksum": f"{checksum(state)}/{_digits(loop)}"}),
        }
        measured = dict(metrics) if self._metric and metrics else None
        with self._writing():
            self._clear_unfinished(str(step))
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=measured, force=True)

    def restore(self, like: TrainState, step: int) -> Restored:
        """The checkpoint of a step, laid out like the given state.

        Raises:
          CheckpointError: it cannot be read, or holds another state than the one wanted.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_key_type(like))
        state, loop = self._read(step, target)
        key = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(like.key))
        return Restored(step, state.replace(key=key), loop)

    def restore_latest(self, like: TrainState) -> Restored | None:
        """The newest checkpoint that can be read, `None` if there are none at all.

        Newer ones that cannot be read are named on standard error, and moved aside to
        `checkpoints_damaged/` so that the run can write them again.

        Raises:
          CheckpointError: there are checkpoints, but none can be read.
        """
        problems: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                restored = self.restore(like, step)
            except CheckpointError as error:
                problems[step] = str(error)
                continue
            for damaged, problem in problems.items():
                place = self._set_aside(damaged)
                print(
                    f"warning: {problem}; it is now {place}, going on from step {step}",
                    file=sys.stderr,
                )
            return restored
        if problems:
            raise CheckpointError(
                f"{problems[max(problems)]}, and no other one there can; remove "
                f"{self.folder.parent} to train this run from the start"
            )
        return None

    def read(self, step: int) -> PyTree:
        """The state of a step as nested dicts of arrays on the default device.

        Raises:
          CheckpointError: it cannot be read.
        """
        place = _everywhere()
        try:
            metadata = self._manager.item_metadata(step)[STATE].tree
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), metadata
            )
        except Exception as error:
            raise self._unreadable(step, one_line(error, 150)) from error
        found = self._read(step, target)[0]
        # A copy of this process's own.
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), found)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: the last one cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _read(self, step: int, target: PyTree) -> tuple[PyTree, dict[str, Any]]:
        items = {STATE: ocp.args.StandardRestore(target), LOOP: ocp.args.JsonRestore()}
        with _abandoned_reads():
            try:
                found = self._manager.restore(step, args=ocp.args.Composite(**items))
                loop = dict(found[LOOP])
                wanted, problem = loop.pop("checksum"), ""
            except Exception as error:  # orbax and tensorstore raise whatever they like
                problem = one_line(error, 150)
            if problem:
                gc.collect()
        if processes.largest(int(bool(problem))):
            raise self._unreadable(step, problem or "another process could not read it")
        of_arrays, _, of_loop = str(wanted).partition("/")
        if checksum(found[STATE]) != of_arrays:
            raise self._unreadable(step, "its arrays do not match their checksum")
        if of_loop != _digits(loop):
            raise self._unreadable(step, "its record of the loop does not match its checksum")
        return found[STATE], loop

    def _clear_unfinished(self, steps: str) -> None:
        """Removes what saves that failed have left, and may still be writing in the background."""
        if not processes.is_main():
            return
        deadline = time.monotonic() + PATIENCE
        for left in self.folder.glob(f"{steps}.orbax-checkpoint-tmp*"):
            while left.exists():
                try:
                    shutil.rmtree(left)
                except FileNotFoundError:
                    continue
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One kind of error for all that can happen while files are written."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise whatever they like
            raise CheckpointError(
                f"a checkpoint cannot be written to {self.folder} ({why_not_written(error)}); "
                "earlier ones are whole: mend it and run the same command again"
            ) from error

    def _unreadable(self, step: int, problem: str) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self.folder / str(step)} cannot be read ({problem})"
        )

    def _set_aside(self, step: int) -> Path:
        folder = self.folder.with_name("checkpoints_damaged")
        folder.mkdir(exist_ok=True)
        place = folder / str(step)
        while place.exists():
            place = place.with_name(f"{place.name}_again")
        if processes.is_main():
            os.rename(self.folder / str(step), place)
        processes.wait("set aside")
        self._manager.reload()
        return place


def read_variables(
    folder: str | os.PathLike[str],
    like: Variables,
    *,
    metric: str | None = None,
    player: str = "student",
) -> Variables:
    """A player's variables out of a folder of checkpoints, laid out like the given ones.

    Args:
      folder: of checkpoints; nothing in it is changed.
      like: variables, or their shapes.
      metric: takes the checkpoint that is best by it, as it was kept; `None` takes the newest.
      player: whose.

    Raises:
      FileNotFoundError: no checkpoint in the folder.
      CheckpointError: the checkpoint cannot be read.
      ValueError: it is of another model.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoints in {folder}")
    with Checkpoints(folder, metric=metric, read_only=True) as keeper:
        step = keeper.latest_step if metric is None else keeper.best_step
        if step is None:
            raise FileNotFoundError(f"no checkpoints in {folder}")
        players = keeper.read(step)["players"]
    if player not in players:
        raise ValueError(f"the checkpoint in {folder} has {sorted(players)}, no {player!r}")
    found = {"params": players[player]["params"]["model"], **(players[player]["model_state"] or {})}
    if problem := _difference(found, dict(like)):
        raise ValueError(f"the checkpoint in {folder} is of another model: {problem}")
    leaves = jax.tree.leaves(found)
    return jax.tree.unflatten(jax.tree.structure(dict(like)), map(jnp.asarray, leaves))


def _digits(loop: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits over what is kept as JSON."""
    return f"{zlib.crc32(json.dumps(loop, sort_keys=True).encode()):08x}"


@contextlib.contextmanager
def _abandoned_reads() -> Iterator[None]:
    """Keeps quiet about the reads that orbax leaves unfinished when one of them fails.

    Python reports each when it is collected, some time later, as an exception that was ignored.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _preservation(keep: int, metric: str | None) -> Any:
    policy = ocp.checkpoint_managers
    newest = policy.LatestN(n=keep)
    if metric is None:
        return newest
    best = policy.BestN(
        get_metric_fn=lambda metrics: metrics[metric], n=1, keep_checkpoints_without_metrics=False
    )
    return policy.AnyPreservationPolicy([newest, best])


def _difference(found: PyTree, wanted: PyTree) -> str:
    """The first array that is not alike in two sets of variables, in words; '' if there is none."""
    shapes = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (found, wanted)
    ]
    for name in dict.fromkeys([*shapes[0], *shapes[1]]):
        there, here = (shape.get(name, "missing") for shape in shapes)
        if there != here:
            return f"{name} is {there} there, wanted {here}"
    return ""


def _everywhere() -> jax.sharding.Sharding:
    """Whole on one device, or on each where there are several processes."""
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("all",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _without_key_type(state: TrainState) -> TrainState:
    """Typed PRNG keys are saved as the integers they are made of."""
    return state.replace(key=jax.random.key_data(state.key))
