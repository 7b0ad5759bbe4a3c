"""What importing costs, and who may import whom."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kdjax

ROOT = Path(kdjax.__file__).parent
HEAVY = (
    "tensorflow", "tensorflow_datasets", "torch", "grain", "orbax", "sklearn", "matplotlib",
    "ml_collections", "absl.flags",
)  # fmt: skip
LIGHT = (
    "losses", "objectives", "algorithms", "distributions", "models", "parallel", "evaluation",
    "data", "plan",
)  # fmt: skip
ABOVE = {
    "base": set(),
    "losses": set(),
    "objectives": {"base", "losses"},
    "distributions": {"losses"},
    "parallel": {"base", "distributions"},
    "models": {"base", "distributions", "parallel"},
    "algorithms": {"base", "losses", "models", "objectives", "parallel"},
    "evaluation": {"base", "losses"},
    "data": {"base", "distributions"},
    "plan": {"base", "cli", "losses", "parallel", "train"},
}
"""What each part may import from kdjax, besides itself."""
MAY_IMPORT_FLAX = {"models", "train"}


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "kdjax":
                found |= {f"kdjax.{alias.name}" for alias in node.names}
    return found


def files_of(part: str) -> list[Path]:
    """The files of a package or module of kdjax."""
    folder = ROOT / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("part", ABOVE)
def test_imports_go_down_only(part):
    for path in files_of(part):
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("kdjax.")}
        assert used <= ABOVE[part] | {part}, f"{path.relative_to(ROOT)} imports {used}"


def test_flax_stays_at_the_edge():
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part not in MAY_IMPORT_FLAX:
            used = {name for name in imports_of(path) if name.split(".")[0] == "flax"}
            assert not used, path.relative_to(ROOT)


def test_importing_loads_nothing_heavy():
    code = "; ".join(f"import kdjax.{part}" for part in LIGHT)
    code += "; import sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    ).stdout.split()
    # flax itself imports some of these; what counts is what kdjax adds.
    base = subprocess.run(
        [sys.executable, "-c", "import jax, flax.nnx, flax.linen, optax, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    added = set(loaded) - set(base)
    assert not {name for name in HEAVY if name in added}


PUBLIC = [
    (f"kdjax.{part}", name)
    for part in (*LIGHT, "base")
    for name in getattr(importlib.import_module(f"kdjax.{part}"), "__all__", ())
]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: value)
def test_public_functions_are_typed_and_documented(module, name):
    value = getattr(importlib.import_module(module), name)
    if not inspect.isfunction(value):
        return
    assert value.__doc__
    signature = inspect.signature(value)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not untyped
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("part", LIGHT)
def test_all_is_sorted_and_exists(part):
    package = importlib.import_module(f"kdjax.{part}")
    for name in getattr(package, "__all__", ()):
        assert hasattr(package, name), name
