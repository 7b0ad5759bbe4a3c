"""Scalars for TensorBoard, written at once by the thread that has them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path


class EventWriter:
    """Writes a file of TensorBoard events.

    Where a disk is full, the write fails here and now. `tensorboardX.SummaryWriter` would fail in
    a thread of its own, and once more when the process ends.

    Args:
      folder: made if missing.
      purge_step: TensorBoard hides what earlier files hold from this step on.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> writer = EventWriter(folder)
      >>> writer.write(10, {'train/loss': 0.5})
      >>> writer.close()
      >>> len(list(folder.glob('events.out.tfevents.*')))
      1
    """

    def __init__(self, folder: Path, purge_step: int = 0):
        from tensorboardX import event_file_writer
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # Two starts within a second are told apart by the process.
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=purge_step, session_log=start, wall_time=time.time()))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars by name, and brings them to the file.

        Args:
          step: number of updates made so far.
          scalars: by name; NaN is allowed.

        Raises:
          OSError: the disk does not take them.
        """
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event

        for name, value in scalars.items():
            entry = summary.scalar(name, value)
            self._file.write_event(Event(step=step, summary=entry, wall_time=time.time()))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
