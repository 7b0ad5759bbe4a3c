"""What a step costs, beside another's."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

from kdjax.train.job import Job

ROUNDS, STEPS = 15, 10


def compare(job: Job, beside: Job, batch_size: int) -> dict[str, Any]:
    """Time and memory of a job's step, and their ratio to another's.

    The two take turns, so that whatever else the machine does slows both; the ratio is the median
    over the turns. Memory is what the compiler plans: arguments, results and everything in between.

    Args:
      job: whose step is measured.
      beside: the step it is compared with.
      batch_size: examples per step.

    Returns:
      `seconds_per_step` and `memory_bytes` of both (the other's under `beside`), `time_ratio` and
      `memory_ratio`. Memory is none on several devices.
    """
    first, second = _Stepper(job, batch_size), _Stepper(beside, batch_size)
    turns = [(first.seconds(), second.seconds()) for _ in range(ROUNDS)]
    memory = first.memory(), second.memory()
    return {
        "seconds_per_step": statistics.median(turn[0] for turn in turns),
        "memory_bytes": memory[0],
        "beside": {
            "method": beside.name,
            "seconds_per_step": statistics.median(turn[1] for turn in turns),
            "memory_bytes": memory[1],
        },
        "time_ratio": statistics.median(mine / other for mine, other in turns),
        "memory_ratio": None if None in memory else memory[0] / memory[1],
        "rounds": ROUNDS,
        "steps_per_round": STEPS,
    }


class _Stepper:
    """A job's step on one batch, again and again."""

    def __init__(self, job: Job, batch_size: int):
        self.step, self.frozen = job.algorithm.step, job.frozen
        self.batch = job.batch(batch_size)
        self.state = job.algorithm.init(job.key, self.batch, job.frozen)
        self.seconds()  # it compiles

    def seconds(self) -> float:
        """Mean over some steps."""
        begun = time.perf_counter()
        for _ in range(STEPS):
            self.state, metrics = self.step(self.state, self.batch, self.frozen)
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - begun) / STEPS

    def memory(self) -> int | None:
        """Bytes, without those of arguments that results take the place of."""
        if not hasattr(self.step, "lower"):
            return None
        plan = self.step.lower(self.state, self.batch, self.frozen).compile().memory_analysis()
        held = plan.argument_size_in_bytes + plan.output_size_in_bytes
        return held + plan.temp_size_in_bytes - plan.alias_size_in_bytes
