"""Weights that keep some examples alone, and runs that keep something frozen of another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_recipe

from kdjax import losses
from kdjax.base import Context
from kdjax.train import fits, schema
from kdjax.train.arms import arms_of
from kdjax.train.errors import RecipeError
from kdjax.train.experiment import Experiment, load_data

RNG = np.random.default_rng(0)
SIZE = 40
ROWS = {"id": np.arange(SIZE)}
LOGITS = RNG.normal(size=(SIZE, 3)).astype(np.float32) * 3
EMBEDDING = RNG.normal(size=(SIZE, 5)).astype(np.float32)
LABEL = np.arange(SIZE) % 3
KNOWN = fits.Known({"logits": LOGITS, "embedding": EMBEDDING}, LABEL, None)


def weights(known=KNOWN, **options):
    return np.asarray(fits.fitted(options, known)(Context({}, ROWS)))


def chosen(given):
    """The examples that count, all alike and 1 in the mean."""
    np.testing.assert_allclose(given.mean(), 1, rtol=1e-5)
    assert len(set(given[given > 0].tolist())) == 1
    return set(np.flatnonzero(given))


@pytest.mark.parametrize("score", ["el2n", "grand"])
def test_the_hardest_have_the_highest_scores(score):
    p = np.asarray(jax.nn.softmax(LOGITS))
    error = np.linalg.norm(p - np.eye(3)[LABEL], axis=1)
    length = np.sqrt(np.sum(EMBEDDING**2, axis=1) + 1) if score == "grand" else 1
    given = weights(fit="hardest", share=0.2, score=score)
    assert chosen(given) == set(np.argsort(-error * length)[:8])


def test_queries_are_of_the_unlabelled():
    labelled = np.arange(SIZE) < 10
    known = KNOWN._replace(labelled=labelled)
    top = np.sort(np.asarray(jax.nn.softmax(LOGITS)), axis=1)
    gains = 1 - (top[:, -1] - top[:, -2])
    by_margin = chosen(weights(known, fit="queries", budget=5, by="margin"))
    assert by_margin == set(10 + np.argsort(-gains[10:])[:5])
    seen = {}
    for way in ("uniform", "robust"):
        drawn = [chosen(weights(known, fit="queries", budget=5, by=way, seed=s)) for s in range(20)]
        assert all(len(rows) == 5 and min(rows) >= 10 for rows in drawn)
        assert len(set(map(frozenset, drawn))) > 5
        seen[way] = set().union(*drawn)
    possible = losses.query_distribution(jnp.asarray(gains[10:]), 0.1 * 30)
    assert seen["robust"] <= set(10 + np.flatnonzero(possible)) | by_margin
    assert len(seen["uniform"]) > len(seen["robust"])


def test_a_specialist_learns_from_its_classes():
    labels_alone = fits.Known({}, LABEL, None)
    given = weights(labels_alone, fit="of_classes", classes=(0, 2))
    assert chosen(given) == set(np.flatnonzero(LABEL != 1))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"fit": "hardest", "score": "eln"}, "score is 'eln', did you mean \"el2n\""),
        ({"fit": "hardest", "share": 0}, "share is 0, wanted above 0 to 1"),
        ({"fit": "queries", "budget": 41}, "budget is 41, wanted 1 to the 40 unlabelled"),
        ({"fit": "queries", "budget": 4, "by": "margins"}, 'did you mean "margin"'),
        ({"fit": "of_classes", "classes": (7,)}, "of which there is no example"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        weights(**options)


def config(objective, **baselines):
    made = tiny_recipe.get_config()
    made.baselines = {"labels": {"name": "cross_entropy"}, **baselines}
    made.objective = objective
    made.student.epochs = 1.0
    return schema.checked(made)


def test_a_fit_names_its_run():
    fit = {"fit": "hardest", "of": "labels"}
    arm = arms_of(config({"name": "kd", "weights": fit}))["kd"]
    assert arm.after == ("labels",)
    with pytest.raises(RecipeError, match="comes after 'label', did you mean"):
        arms_of(config({"name": "kd", "weights": {**fit, "of": "label"}}))


def test_the_teacher_is_the_same_for_all_seeds(tmp_path):
    student = {"name": "mlp", "features": (4,), "classifier": {"width": 16}}
    made = config({"name": "cross_entropy", "model": student, "starts_from": "teacher"})
    experiment = Experiment(made, load_data(made), tmp_path)
    assert experiment.needs_teacher
    experiment.student("cross_entropy", 1, experiment.teacher())
    head = experiment.trained("teacher", 0)[1]["params"]["head"]
    kept = experiment.trained("cross_entropy", 1)[1]["frozen"]
    jax.tree.map(np.testing.assert_array_equal, kept, head)
    of_the_teacher = {"fit": "hardest", "of": "teacher"}
    arm = arms_of(config({"name": "cross_entropy", "weights": of_the_teacher}))["cross_entropy"]
    assert arm.uses_the_teacher and not arm.after


def test_students_around_what_is_frozen_train(tmp_path):
    """A mask and a reused classifier, taught by two objectives, at averaged weights."""
    network = {"name": "mlp", "features": (16,)}
    mask = {"at": "hidden_0", "width": 16, "hidden": 4, "heads": 2}
    special = {"name": "kd", "starts_from": "large", "taught_by": "labels"}
    embedding = {"name": "embedding_regression", "student": "embedding", "teacher": "embedding"}
    made = config(
        {
            "name": "kd",
            "taught_by": "large",
            "starts_from": "large",
            "beside": {"embedding": {**embedding, "weight": 0.5}},
            "model": {"name": "mlp", "features": (4,), "classifier": {"width": 16}},
            "averaged": 0.5,
        },
        large={"name": "cross_entropy", "model": {**network, "rows": (0, 4)}},
        special={**special, "model": {**network, "rows": (0, 4), "masked": mask}},
    )
    experiment = Experiment(made, load_data(made), tmp_path)
    experiment.check()
    for name in ("special", "kd"):
        experiment.student(name, 0, None)
    large = experiment.trained("large", 0)[1]
    assert large["params"]["hidden_0"]["kernel"].shape[0] == 4 * 8
    frozen = experiment.trained("special", 0)[1]["frozen"]
    jax.tree.map(np.testing.assert_array_equal, frozen, large)
    student = experiment.trained("kd", 0)[1]
    jax.tree.map(np.testing.assert_array_equal, student["frozen"], large["params"]["head"])
    rows = (tmp_path / "runs/kd/seed_0/metrics.jsonl").read_text()
    assert '"kd"' in rows and '"embedding"' in rows


@pytest.mark.parametrize(
    "objective, said",
    [
        ({"beside": {"labels": {"name": "kd"}}}, "has the name of another part"),
        ({"beside": "kd"}, "beside is 'kd', wanted objectives by name"),
        ({"beside": {"more": "kd"}}, "more is 'kd', wanted a name with its options"),
        ({"beside": {"more": {"name": "kd", "taught_by": "labels"}}}, "more has 'taught_by'"),
        ({"beside": {"more": {"name": "kd", "temprature": 1}}}, 'did you mean "temperature"'),
        ({"averaged": 2.0}, "averaged: share is 2.0, wanted above 0 to 1"),
        ({"model": {"name": "mlp", "rows": 3}}, "rows is 3, wanted the first"),
        ({"model": {"name": "mlp", "classifier": {"width": 4}}}, "name one in starts_from"),
        ({"model": {"name": "mlp", "classifier": {"wdth": 4}}}, "classifier: .*wdth"),
    ],
)
def test_mistakes_in_a_recipe_are_named(objective, said, tmp_path):
    made = config({"name": "kd", **objective})
    with pytest.raises(RecipeError, match=said):
        Experiment(made, load_data(made), tmp_path).check()
