"""Running the commands from tests: in this process where possible, it is much faster."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from absl import flags

from kdjax import cli

ROOT = Path(__file__).parents[2]
OURS = ("config", "data_dir", "output", "platforms", "run", "seed", "source_dir", "workdir")
OURS += ("coordinator", "distributed", "process", "processes", "quantize")
TINY = str(Path(__file__).with_name("tiny_recipe.py"))


class Answer(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def line(self):
        """The error, which must be a single line."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def kdjax(*arguments):
    """`kdjax train --config=…`, with flags as in a new process."""
    before = set(flags.FLAGS)
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(["kdjax", *map(str, arguments)])
        except SystemExit as end:
            status = end.code or 0
        finally:
            for name in set(flags.FLAGS) - before:
                if name.partition(".")[0] in OURS:
                    delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
    return Answer(status, out.getvalue(), err.getvalue())


def start(*arguments, cwd=None, **environment):
    """`python -m kdjax.…` as a process of its own, on one device."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return Answer(process.returncode, out, err)
