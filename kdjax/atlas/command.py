"""What the command of the atlas does, once its flags are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from kdjax.atlas import tables
from kdjax.atlas.family import load_family
from kdjax.atlas.page import read_summaries, write_page
from kdjax.atlas.protocol import load_protocol
from kdjax.atlas.runs import run
from kdjax.atlas.summary import summarize
from kdjax.train.errors import RecipeError
from kdjax.train.files import write_json_atomic

RESULTS, PAGES = Path("benchmarks/results/atlas"), Path("docs/atlas")


def train(
    family: str,
    dataset: str,
    folder: str,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[str] = (),
    scale: float = 1.0,
    results: str = "",
    configs: str = "",
) -> Path:
    """Runs a family on a data set; gives the path of the summary.

    With a share of the budget, what comes out is kept in the workdir: it is no result to show.
    """
    where = configs or tables.FOLDER
    loaded = load_family(family, where), load_protocol(dataset, where, scale)
    kept = Path(results) if results else RESULTS if scale == 1 else Path(folder) / "results"
    keep_programs(Path(folder) / "programs")
    return run(*loaded, folder, kept, methods=tuple(methods), seeds=_numbers(seeds))


def render(family: str, results: str = "", pages: str = "", configs: str = "") -> Path:
    """Writes a family's summaries and page from the files of its runs; gives the page's path.

    Data sets without any run are on the page as well, and it says so.
    """
    folder, where = Path(results or RESULTS), configs or tables.FOLDER
    scales = {found["dataset"]: found["scale"] for found in read_summaries(family, folder)}
    for dataset in tables.names_of(where, "recipe"):
        protocol = load_protocol(dataset, where, scales.get(dataset, 1.0))
        found = summarize(load_family(family, where), protocol, folder)
        write_json_atomic(folder / family / f"{dataset}.json", found)
    return write_page(family, folder, Path(pages or PAGES) / f"{family}.md")


def keep_programs(folder: Path | None) -> None:
    """Lets a job that goes on, or a program that several methods share, do without compiling.

    Args:
      folder: of the compiled programs; `None` for keeping none, which is the default.
    """
    jax.config.update("jax_compilation_cache_dir", folder and str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _numbers(seeds: Sequence[str]) -> tuple[int, ...]:
    if not all(seed.isdecimal() for seed in seeds):
        raise RecipeError(f"--seeds is {','.join(seeds)}, wanted integers of at least 0")
    return tuple(map(int, seeds))
