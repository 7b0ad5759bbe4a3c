"""The catalogue of methods is whole, true and up to date."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks.miniatures import run
from kdjax import algorithms, losses, objectives
from kdjax.train import fits
from kdjax.train.lookup import parts_of

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "kdjax.losses": {
        "adaptive_average_pool", "aggregate_views", "agreement_weights", "attention_map",
        "batch_coupled", "blend", "calibrate_regions", "channel_correlation", "class_centers",
        "class_sums", "combine_heads", "committee", "confidence_weights", "divergence",
        "entropy_balance", "fit_heads", "fit_subclasses", "geometry", "gram_distance",
        "interpolate", "joint_labels", "label_first", "landmark_assistance", "landmark_error",
        "load_balance", "merge_subclasses", "permute_others", "route", "sinkhorn_plan",
        "smooth_points", "soften", "spatial_correlation", "split_target", "standardize", "uskd",
        "virtual_teacher", "without_readout",
    },
    "kdjax.objectives": {
        "TaidState", "affine_augmentor", "augmented_kd", "convex", "correct", "crd_step",
        "disagreement", "draw_others", "gate", "gate_init", "gated", "lift", "measured",
        "mix_statistics", "output_discriminator", "projected", "projectors", "ps_kd_share",
        "reduce", "share_network", "taid_update", "teacher_is_right", "told_apart",
        "total_loss", "weighted", "weighted_sum", "with_labels",
    },
    "kdjax.algorithms": {
        "Guards", "Player", "Teacher", "algorithm", "bilevel", "kernel_self_distillation_limit",
        "rbf_kernel", "train_step",
    },
}  # fmt: skip
"""What methods are made of; everything else that is public is a method."""
BY_OPTION = {
    "averaged": {"stochastic_weight_averaging"},
    "classifier": {"with_classifier"},
    "hardest": {"el2n", "grand"},
    "label_noise": {"label_assisted"},
    "masked": {"masked"},
    "queries": {"query_distribution"},
}
"""Functions that a recipe names by an option of a network, of an arm, or by a fit."""


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
METHODS = generate.load()
each = pytest.mark.parametrize("method", METHODS, ids=[f"{m.kind}.{m.key}" for m in METHODS])


@each
def test_the_function_is_public(method):
    module, _, name = method.function.rpartition(".")
    assert name in importlib.import_module(module).__all__
    assert callable(getattr(importlib.import_module(module), name))


@each
def test_what_checks_it_exists(method):
    assert method.checks
    for check in method.checks:
        path = check if check.startswith("tests/") else f"tests/goldens/{check}.npz"
        assert list(ROOT.glob(path)), check


@each
def test_the_paper_can_be_found(method):
    assert bool(method.paper) == bool(method.arxiv)
    assert not method.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", method.arxiv)


@each
def test_the_docstring_names_the_paper(method):
    module, _, name = method.function.rpartition(".")
    documented = getattr(importlib.import_module(module), name).__doc__
    assert not method.arxiv or not re.search("arXiv", documented) or method.arxiv in documented


@each
def test_the_recipe_exists_and_is_of_this_method(method):
    if not method.recipe:
        return
    recipe = importlib.import_module(method.recipe.removesuffix(".py").replace("/", "."))
    config, name = recipe.get_config(), method.function.rpartition(".")[2]
    arms = [a.to_dict() for a in (config.objective, *config.baselines.values())]
    named = {a.get("algorithm") for a in arms}
    named |= {part.get("name") for a in arms for part in parts_of(a)}
    named |= {v["fit"] for a in arms for v in a.values() if fits.is_fit(v)}
    named |= {option for a in arms for option in (*a, *a.get("model", {}))}
    named |= {made for option in named & set(BY_OPTION) for made in BY_OPTION[option]}
    assert name == "distill" or name in named


def test_every_miniature_is_of_a_method():
    """And of its paper."""
    named = {m.miniature: m.arxiv for m in METHODS if m.miniature}
    assert set(named) == {f"benchmarks/miniatures/{name}.py" for name in run.NAMES}
    for path, arxiv in named.items():
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert module.CLAIM.arxiv == arxiv, path


def test_every_kind_has_a_heading():
    assert {method.kind for method in METHODS} <= set(generate.KINDS)


@pytest.mark.parametrize("package", [losses, objectives, algorithms], ids=lambda p: p.__name__)
def test_every_public_method_is_catalogued(package):
    known = {m.function.rpartition(".")[2] for m in METHODS if package.__name__ in m.function}
    parts = PARTS[package.__name__]
    assert not known & parts
    assert known | parts == set(package.__all__)


def test_every_golden_is_named():
    patterns = {check for method in METHODS for check in method.checks}
    folder = ROOT / "tests" / "goldens"
    goldens = {str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.npz")}
    assert not {g for g in goldens if not any(fnmatch.fnmatch(g, p) for p in patterns)}


def test_generated_pages_are_up_to_date():
    assert not generate.stale(), "run: python docs/generate.py"
