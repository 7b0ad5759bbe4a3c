"""Kills a job at drawn instants, starts it again each time, and compares where it ends.

A job is a list of commands, one per process. All of them are started together, and killed together.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).with_name("recipe.py")
KINDS = ("start", "step", "save")
"""Instants of a job that trains: before its first step, after a checkpoint, during a save."""
REPORT = "report"
"""The instant after the last result, while the report is written."""
PAUSES = {"start": 3.0, "step": 0.1, "save": 0.01, REPORT: 1.0}
"""The longest wait in seconds, after what an instant waits for has come."""
RUNS = ("teacher", "kd")
CLOCK = ("seconds", "examples_per_second")
"""Fields of a result that depend on the machine."""


class Life(NamedTuple):
    """One start of the job: which instant was chosen, how it ended, and how long it lived.

    Attributes:
      kind: of `KINDS`, `'report'`, or `'none'` where nobody killed it.
      ended: `'killed'`, `'finished'` before the instant came, or `'failed'`.
      seconds: it lived.
      saving: whether a checkpoint was being written when it was killed.
      error: the end of what a failed job wrote.
    """

    kind: str
    ended: str
    seconds: float
    saving: bool = False
    error: str = ""


class Job(NamedTuple):
    """What is started again and again: the commands of its processes, and its folder."""

    commands: Sequence[Sequence[str]]
    workdir: Path

    @property
    def saved(self) -> int:
        """Steps saved so far, of all runs together."""
        return sum(
            max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
            for folder in self.workdir.glob("runs/*/*/checkpoints")
        )

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.workdir.glob("runs/*/*/checkpoints/*tmp*"))

    @property
    def trained(self) -> bool:
        """Whether all results are there."""
        return len(list(self.workdir.glob("runs/*/*/result.json"))) == len(RUNS)


def job(workdir: Path, *flags: str, processes: int = 1) -> Job:
    """The recipe beside this file, in one process or several."""
    command = [sys.executable, "-m", "kdjax.train", f"--config={RECIPE}", f"--workdir={workdir}"]
    command += flags
    if processes == 1:
        return Job([command], workdir)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator=localhost:{free.getsockname()[1]}"
    together = [*command, address, f"--processes={processes}"]
    return Job([[*together, f"--process={index}"] for index in range(processes)], workdir)


def start(job: Job, log: Path) -> list[subprocess.Popen]:
    """Starts all processes of a job; what they say goes to a file."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "KDJAX_PROGRESS": "0"}
    with open(log, "w") as file:
        return [
            subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            for command in job.commands
        ]


def end(processes: Sequence[subprocess.Popen], number: int = signal.SIGKILL) -> None:
    """Sends a signal to all processes, and waits for them."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    for process in processes:
        process.wait()


def drawing(processes: Sequence[subprocess.Popen]) -> bool:
    """Whether some process has loaded what figures are drawn with, as only a report does."""
    for process in processes:
        try:
            if "matplotlib" in Path(f"/proc/{process.pid}/maps").read_text():
                return True
        except OSError:  # it has ended
            continue
    return False


def live(job: Job, kind: str, pause: float, log: Path, timeout: float = 300.0) -> Life:
    """Starts the job and kills it at an instant, or lets it end."""
    saved = job.saved
    ready = {
        "start": lambda: True,
        "step": lambda: job.saved > saved and not job.saving,
        "save": lambda: job.saved > saved and job.saving,
        REPORT: lambda: job.trained and drawing(processes),
        "none": lambda: False,
    }[kind]
    begun = time.monotonic()
    processes = start(job, log)
    running = True
    try:
        while running and not ready() and time.monotonic() < begun + timeout:
            time.sleep(0.002)
            codes = [process.poll() for process in processes]
            # The processes of a finished job end one after the other.
            running = None in codes and not any(codes)
        if running and time.monotonic() < begun + timeout:
            time.sleep(pause)
        saving = job.saving
    finally:
        end(processes)
    codes = {process.returncode for process in processes}
    ended = "finished" if codes == {0} else "killed" if -signal.SIGKILL in codes else "failed"
    error = "" if ended != "failed" else log.read_text()[-2000:]
    return Life(kind, ended, time.monotonic() - begun, saving and ended == "killed", error)


def torment(
    job: Job, kills: int, seed: int, log: Path, reports: int | None = None
) -> Iterator[Life]:
    """Kills a job so many times, and then lets it end; gives each of its lives.

    The last kills, a sixth of them unless told otherwise, come while the report is written; the
    others at a start, after a checkpoint or during a save. A job that fails is not started again.
    """
    draw = random.Random(seed)
    reports = kills // 6 if reports is None else reports
    killed = 0
    while killed < kills:
        kind = REPORT if killed >= kills - reports else draw.choice(KINDS)
        life = live(job, kind, draw.uniform(0, PAUSES[kind]), log)
        yield life
        # A report may be done before the pause is over; anything else was too short for its kills.
        if life.ended == "failed" or (life.ended == "finished" and kind != REPORT):
            return
        killed += life.ended == "killed"
    yield live(job, "none", 0.0, log)


def differences(first: Path, second: Path) -> list[str]:
    """What two finished jobs do not have in common, in words; [] where they are the same."""
    found = []
    for run in RUNS:
        a, b = (folder / "runs" / run / "seed_0" for folder in (first, second))
        if (a / "metrics.jsonl").read_bytes() != (b / "metrics.jsonl").read_bytes():
            found.append(f"{run}: metrics.jsonl")
        if _result(a) != _result(b):
            found.append(f"{run}: result.json")
        found += [f"{run}: {name}" for name in _different_arrays(a, b)]
    return found


def _result(folder: Path) -> dict:
    stored = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in stored.items() if key not in CLOCK}


def _different_arrays(first: Path, second: Path) -> list[str]:
    """Names of the arrays of the last checkpoints that differ in any bit."""
    import jax

    from kdjax.train.checkpoints import Checkpoints

    def read(folder: Path) -> dict[str, np.ndarray]:
        with Checkpoints(folder / "checkpoints", read_only=True) as keeper:
            state = keeper.read(keeper.latest_step)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    a, b = read(first), read(second)
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if name not in a or name not in b or not _same(a[name], b[name])
    ]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
