"""What a run writes down while it trains, and what it shows on the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kdjax.train.events import EventWriter
from kdjax.train.files import to_json, write_atomic

Row = dict[str, Any]
RESERVED = ("step", "split")


class MetricWriter:
    """Writes metrics as JSON lines and as TensorBoard events.

    `<folder>/metrics.jsonl` gets one object per line: `step`, `split`, then the values; a number
    that is not finite is null. `<folder>/tensorboard` gets the same as scalars `<split>/<name>`.
    Only the process with index 0 writes.

    Args:
      folder: the folder of the run; made if missing.
      resume_step: None starts a new file. A number goes on with the one there is, as a run does
        that restarts from its checkpoint of that step: rows of later steps are dropped first.
      tensorboard: whether to write events too.
      process_index: this process among those of the run; `jax.process_index()` by default.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> with MetricWriter(folder, tensorboard=False) as writer:
      ...     writer.write(10, 'train', {'loss': 0.5})
      >>> read_metrics(folder / 'metrics.jsonl')
      [{'step': 10, 'split': 'train', 'loss': 0.5}]
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        process_index: int | None = None,
    ):
        self.path = Path(folder) / "metrics.jsonl"
        self._file = self._events = None
        if _process_index(process_index) != 0:
            return
        rows = [] if resume_step is None else read_metrics(self.path)
        kept = [row for row in rows if row["step"] <= resume_step]
        write_atomic(self.path, "".join(map(_line, kept)))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        if tensorboard:
            purge = 0 if resume_step is None else resume_step + 1
            self._events = EventWriter(self.path.parent / "tensorboard", purge)

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Adds one row.

        Args:
          step: number of updates made so far.
          split: what was measured on, `train` or `test`.
          values: scalars by name; arrays on a device are waited for. Text goes to the file only.

        Raises:
          TypeError: if a value is neither a scalar nor text.
          ValueError: if a value is called `step` or `split`.
        """
        if self._file is None:
            return
        taken = [name for name in RESERVED if name in values]
        if taken:
            raise ValueError(f"values must not be named {taken[0]!r}: it is a field of every row")
        scalars = {name: _scalar(name, value) for name, value in values.items()}
        self._file.write(_line({"step": int(step), "split": str(split), **scalars}))
        self._file.flush()
        if self._events is not None:
            numbers = {
                f"{split}/{name}": value
                for name, value in scalars.items()
                if not isinstance(value, str)
            }
            self._events.write(int(step), numbers)

    def close(self) -> None:
        """Brings everything to disk."""
        opened = [file for file in (self._file, self._events) if file is not None]
        self._file = self._events = None
        with contextlib.ExitStack() as stack:
            for file in opened:
                stack.callback(file.close)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read_metrics(path: str | os.PathLike) -> list[Row]:
    """The rows of a `metrics.jsonl`; an unfinished last line, left by a crash, is left out.

    Args:
      path: the file.

    Returns:
      A dict per row with `step`, `split` and the values; [] if there is no such file.

    Raises:
      ValueError: if a line other than the last is not a row.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it has no step")
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise ValueError(f"{path}, line {number} is not a row of metrics: {error}") from error
        rows.append(row)
    return rows


class Progress:
    """A progress bar with rates, time left and the current metrics.

    On a terminal it is a bar. Elsewhere, or with `KDJAX_PROGRESS=0` in the environment, it is a
    plain line every ten seconds. Rates leave out the first update, which compiles. Values may be
    arrays on a device: they are only waited for when they are shown.

    Args:
      total: number of steps of the whole run.
      description: what is running.
      initial: steps made before, by a run that this one continues.
      examples_per_step: the batch size; 0 hides the rate of examples.
      process_index: this process among those of the run; `jax.process_index()` by default. Only
        process 0 shows anything.
      stream: where to; standard error by default.
      interval: seconds between plain lines.
      clock: gives the time in seconds.

    Example:
      >>> with Progress(2, 'kd', process_index=0, stream=sys.stdout) as progress:
      ...     progress.update(loss=0.5)
      ...     progress.update(loss=0.25)
      kd  2/2  ...loss 0.2500
    """

    def __init__(
        self,
        total: int,
        description: str = "",
        *,
        initial: int = 0,
        examples_per_step: int = 0,
        process_index: int | None = None,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.step, self.description = total, initial, description
        self.examples_per_step = examples_per_step
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._values, self._first, self._bar = clock, {}, None, None
        self._shows = _process_index(process_index) == 0
        tty = getattr(self._stream, "isatty", lambda: False)()
        if self._shows and tty and os.environ.get("KDJAX_PROGRESS") != "0":
            from tqdm import tqdm

            form = "{percentage:3.0f}%|{bar:20}| {desc}"
            self._bar = tqdm(total=total, initial=initial, file=self._stream, bar_format=form)
            interval = min(interval, 0.5)
        self._interval, self._shown = interval, clock()

    def update(self, steps: int = 1, **values: Any) -> None:
        """Counts steps and keeps the values, which are shown when it is time.

        Args:
          steps: how many were made.
          **values: scalars by name, such as `loss` and `accuracy`, or arrays whose last entry
            counts; those not named keep what they had.
        """
        self.step += steps
        self._values |= values
        now = self._clock()
        if self._first is None:
            self._first = (now, self.step)
        if now - self._shown >= self._interval:
            self.show()

    def line(self) -> str:
        """The current state in words."""
        parts = [self.description, f"{self.step}/{self.total}"]
        rate = self.steps_per_second
        if rate:
            parts.append(f"{_short(rate)} steps/s")
            if self.examples_per_step:
                parts.append(f"{_short(rate * self.examples_per_step)} examples/s")
            parts.append(f"ETA {_duration((self.total - self.step) / rate)}")
        parts += [
            f"{name} {float(np.ravel(value)[-1]):.4f}" for name, value in self._values.items()
        ]
        return "  ".join(part for part in parts if part)

    @property
    def steps_per_second(self) -> float:
        """Mean rate since the first update; 0 while it is not known."""
        if self._first is None:
            return 0.0
        time_then, step_then = self._first
        elapsed = self._clock() - time_then
        return (self.step - step_then) / elapsed if elapsed > 0 else 0.0

    def show(self) -> None:
        """Shows the current state now."""
        self._shown = self._clock()
        if self._bar is not None:
            self._bar.n = self.step
            self._bar.set_description_str(self.line(), refresh=True)
        elif self._shows:
            print(self.line(), file=self._stream, flush=True)

    def close(self) -> None:
        """Shows the last state and ends the bar."""
        if self._shows:
            self.show()
        if self._bar is not None:
            self._bar.close()
        self._shows, self._bar = False, None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _process_index(given: int | None) -> int:
    """This process's number."""
    if given is not None:
        return given
    import jax

    return jax.process_index()


def _line(row: Row) -> str:
    """A row as a line of JSON."""
    return json.dumps(to_json(row), allow_nan=False) + "\n"


def _scalar(name: str, value: Any) -> float | int | str:
    """A Python number or text; integers stay integers."""
    value = value.item() if getattr(value, "size", None) == 1 else value
    if not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"values[{name!r}] must be a scalar, got {value!r}")
    return value


def _short(number: float) -> str:
    """Three significant digits with k, M or G."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
