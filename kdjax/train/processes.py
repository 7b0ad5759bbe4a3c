"""Several processes at one job: starting together, agreeing, and stopping together.

With one process each function answers at once, without any communication.
"""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax.train.errors import RecipeError, one_line
from kdjax.train.stopping import Stop


def initialize(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    heartbeat: int = 30,
) -> None:
    """Joins the processes of a job; to be called before anything is computed.

    Args:
      coordinator: `host:port` of the first process. Nothing given: found out from the environment,
        as on TPU pods and under Slurm.
      count: number of processes.
      index: this one's, from 0.
      heartbeat: seconds after which a process that is silent is taken for dead, and the others end.

    Raises:
      RecipeError: they cannot be joined.
    """
    given = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=heartbeat)
    except (RuntimeError, ValueError) as error:
        known = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        raise RecipeError(
            f"the processes cannot be joined ({one_line(error, 200)}); given: {known or 'nothing'}"
        ) from error


def is_main() -> bool:
    """Whether this process is the one that writes results and reports."""
    return jax.process_index() == 0


def agreed(value: bool) -> bool:
    """The main process's answer to a question, in all processes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def largest(value: int) -> int:
    """The largest of all processes' numbers."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.asarray(value))))


def own_rows(batch: Any) -> Any:
    """This process's part of a batch that every process has whole."""
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda x: x[index * len(x) // count : (index + 1) * len(x) // count], batch)


def wait(what: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def stop_together(stop: Stop) -> None:
    """Asks the job to stop in all processes if any was asked; all must call it."""
    if number := largest(stop.signal or 0):
        stop.ask(number)


class StopInStep:
    """Lets all processes stop at the same step, though signals reach them at different times.

    Each step's word is added up on the devices and read two steps later, so that nobody waits.

    Args:
      stop: of this process.
    """

    DELAY = 2

    def __init__(self, stop: Stop):
        self._stop = stop
        self._words: collections.deque[jax.Array] = collections.deque()
        if jax.process_count() == 1:
            return
        mesh = Mesh(np.asarray(jax.devices()), ("all",))
        self._each = NamedSharding(mesh, P("all"))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def asked(self) -> bool:
        """Whether to stop after this step; to be called once per step."""
        if jax.process_count() == 1:
            return self._stop.asked
        word = np.full(jax.local_device_count(), self._stop.signal or 0, np.int32)
        words: Any = jax.make_array_from_process_local_data(self._each, word)
        self._words.append(self._largest(words))
        if len(self._words) > self.DELAY and (number := int(self._words.popleft())):
            self._stop.ask(number)
            return True
        return False
