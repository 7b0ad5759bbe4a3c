"""Every config file in `configs/` loads, has known keys, and describes a training that fits."""

import ast
import importlib.util
from pathlib import Path

import pytest

from kdjax.train import schema
from kdjax.train.errors import RecipeError
from kdjax.train.experiment import Experiment, load_data

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("base.py", "__init__.py")
ALL = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name not in SHARED)
PLANNED = [p for p in ALL if "def get_problem" in p.read_text()]
"""Recipes for `kdjax.plan` alone."""
CONFIGS = [p for p in ALL if p not in PLANNED]
EVERY = [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in CONFIGS]


def load_config(path):
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(autouse=True)
def _configs_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("path", EVERY)
def test_the_recipe_can_be_trained(path, tmp_path):
    config = schema.checked(load_config(path))
    try:
        data = load_data(config)
    except RecipeError as error:
        if config.data.name != "fashion_mnist":
            raise
        pytest.skip(f"the files of Fashion-MNIST are not here: {error}")
    Experiment(config, data, tmp_path).check()


@pytest.mark.parametrize("path", EVERY)
def test_the_recipe_says_how_to_run_it_and_what_came_out(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{path.name} has no docstring"
    assert f"python -m kdjax.train --config={path.relative_to(ROOT).as_posix()}" in text
    assert "Outcome: " in text


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_a_planned_recipe_says_so_and_is_refused_by_the_trainer(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m kdjax.plan --config={path.relative_to(ROOT).as_posix()}" in text
    with pytest.raises(RecipeError, match="config"):
        schema.checked(load_config(path))


def test_there_are_recipes():
    assert len(CONFIGS) > 15
