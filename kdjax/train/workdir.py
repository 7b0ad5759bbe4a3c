"""The folder of a job: who works in it, which recipe it is of, and where it ran."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import kdjax
from kdjax.train import processes, schema
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.files import to_json, write_json_atomic

ELSEWHERE = ("data.data_dir", "data.source_dir", "data.timeout")
"""Keys that may differ when a run is resumed: data can move, what they hold is checked."""
ADDED = ("runs", "dataset")
"""What `config.json` has besides the config, for the report."""


@contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """Makes the folder and holds it for this job; the system lets go if its main process dies.

    Raises:
      RecipeError: another job is at work in it, or it cannot be made.
    """
    with contextlib.ExitStack() as held:
        problem = None
        if processes.is_main():
            try:
                held.enter_context(_locked(workdir))
            except RecipeError as error:
                problem = error
        if processes.agreed(problem is not None):
            raise problem or RecipeError(f"the main process cannot work in {workdir}")
        yield


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Kept open while the folder is held.
        lock = open(workdir / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise RecipeError(f"--workdir {workdir} cannot be written to ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(
                f"another process is at work in {workdir}; wait for it or choose another --workdir"
            ) from None
        yield


def check_config(workdir: Path, config: ConfigDict, runs: list[str]) -> None:
    """Makes sure that what the folder holds, if anything, is of this recipe.

    Raises:
      RecipeError: it is of another; names the keys that differ.
    """
    if not (workdir / "config.json").exists():
        return
    then, now = _read_config(workdir), _stored(config, runs)
    differing = sorted(
        key
        for key in _differences(then, now)
        if key not in ELSEWHERE and key.partition(".")[0] not in ELSEWHERE
    )
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RecipeError(
            f"{workdir} holds a run of another config (config.{', config.'.join(differing[:3])}"
            f"{more} differ); choose another --workdir or remove it"
        )


def record(workdir: Path, config: ConfigDict, runs: list[str]) -> None:
    """Writes `config.json` and `environment.json`, unless they are there."""
    if not processes.is_main():
        return
    if not (workdir / "config.json").exists():
        write_json_atomic(workdir / "config.json", _stored(config, runs))
    if not (workdir / "environment.json").exists():
        write_json_atomic(workdir / "environment.json", environment())


def stored_config(workdir: Path) -> ConfigDict:
    """The config that a folder's runs were trained with.

    Raises:
      RecipeError: there is none, or it cannot be read.
    """
    if not (workdir / "config.json").exists():
        raise RecipeError(f"--workdir {workdir} holds no run; train one first")
    stored = _read_config(workdir)
    return ConfigDict(
        {key: _with_tuples(value) for key, value in stored.items() if key not in ADDED}
    )


def _read_config(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path} cannot be read ({one_line(error)}); restore it or choose another --workdir"
        ) from error
    return _completed(found, to_json(schema.default().to_dict()))


def _completed(found: dict[str, Any], known: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A config with the keys that have come since it was written, as they are by default."""
    completed = dict(found)
    for key, value in known.items():
        name = f"{path}.{key}".lstrip(".")
        mine = completed.setdefault(key, value)
        fixed = name not in schema.OPEN and not name.endswith("optimizer")
        if fixed and isinstance(value, Mapping) and isinstance(mine, dict):
            completed[key] = _completed(mine, value, name)
    return completed


def _stored(config: ConfigDict, runs: list[str]) -> dict[str, Any]:
    return to_json({**config.to_dict(), "runs": ["teacher", *runs], "dataset": config.data.name})


def _differences(then: Any, now: Any, path: str = "") -> set[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        return {
            difference
            for key in then.keys() | now.keys()
            for difference in _differences(then.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        }
    return set() if then == now else {path}


def _with_tuples(value: Any) -> Any:
    """JSON has lists only; in configs they are tuples, which can be hashed."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def environment() -> dict[str, Any]:
    """Where a job runs: commit, versions, devices, the time."""
    import flax
    import optax

    return {
        **_commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "kdjax": kdjax.__version__,
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def _commit() -> dict[str, Any]:
    """Commit of the source tree that kdjax is run from, if it is one."""
    source = Path(os.path.abspath(kdjax.__file__))

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)  # an installed copy is of no commit
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
