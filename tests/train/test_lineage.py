"""Runs that build on others, and what is fitted before a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_recipe

from kdjax import algorithms, data, losses
from kdjax.base import Context
from kdjax.train import fits, lineage, schema, splits
from kdjax.train.arms import arms_of
from kdjax.train.errors import RecipeError
from kdjax.train.experiment import Experiment, load_data

RNG = np.random.default_rng(0)


def config(objective=None, **baselines):
    made = tiny_recipe.get_config()
    made.baselines = {"labels": {"name": "cross_entropy"}, **baselines}
    made.objective = objective or made.objective
    return schema.checked(made)


CHAIN = {
    "assistant": {"name": "kd", "model": {"name": "mlp", "features": (8,)}},
    "both": {"name": "ensemble_kd", "taught_by": ("labels", "assistant")},
}


def test_what_an_arm_comes_after():
    arms = arms_of(config({"name": "kd", "taught_by": "both", "starts_from": "teacher"}, **CHAIN))
    assert arms["both"].after == ("labels", "assistant")
    assert arms["kd"].after == ("both",)
    wanted = {"labels": 0, "assistant": 0, "both": 1, "kd": 2}
    assert {name: lineage.generation(arm, arms) for name, arm in arms.items()} == wanted
    assert arms["kd"].uses_the_teacher and not arms["both"].uses_the_teacher
    assert arms["assistant"].uses_the_teacher and not arms["labels"].uses_the_teacher


def test_the_order_must_be_one():
    circle = {"a": {"name": "kd", "taught_by": "b"}, "b": {"name": "kd", "starts_from": "a"}}
    with pytest.raises(RecipeError, match="comes after itself: a after b"):
        arms_of(config(**circle))
    with pytest.raises(RecipeError, match=r"comes after 'lables', did you mean \"labels\""):
        arms_of(config({"name": "kd", "taught_by": "lables"}))


def test_a_chain_trains_with_networks_of_its_own(tmp_path):
    made = config({"name": "kd", "taught_by": "both"}, **CHAIN)
    made.student.epochs = 1.0
    experiment = Experiment(made, load_data(made), tmp_path)
    experiment.check()
    assert not any(tmp_path.iterdir())
    experiment.student("kd", 0, experiment.teacher())
    trained = {path.parent.name for path in tmp_path.glob("runs/*/seed_0")}
    assert trained == {"teacher", "labels", "assistant", "both", "kd"}
    assert experiment.model_of("labels") is experiment.model_of("kd")
    _, variables = experiment.trained("assistant", 0)
    assert variables["params"]["hidden_0"]["kernel"].shape[1] == 8
    guide = lineage.guide(experiment.arms["both"], None, lambda name: experiment.trained(name, 0))
    assert guide.members == 2
    start = lineage.start(
        arms_of(config({"name": "kd", "starts_from": "labels"}))["kd"],
        lambda name: experiment.trained(name, 0),
    )
    assert set(start) == {"student"}


def known(members=0, held_out=True):
    shape = (30, members) if members else (30,)
    embedding = RNG.normal(size=(*shape, 6)).astype(np.float32)
    head = {"kernel": RNG.normal(size=(6, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    logits = embedding @ head["kernel"]
    other = {"embedding": RNG.normal(size=(9, 6)).astype(np.float32), "label": np.arange(9) % 3}
    return fits.Known(
        {"logits": logits, "embedding": embedding},
        np.arange(30) % 3,
        None if members else head,
        other if held_out else None,
    )


def test_fits_to_the_teacher():
    one = known()
    centers = fits.fitted({"fit": "class_centers"}, one)
    means = fits.fitted({"fit": "class_means"}, one)
    for c in range(3):
        mine = one.label == c
        np.testing.assert_allclose(centers[c], one.answers["embedding"][mine].mean(0), rtol=1e-4)
        p = jax.nn.softmax(one.answers["logits"][mine]).mean(0)
        np.testing.assert_allclose(means[c], p, rtol=1e-4)
    made = fits.fitted({"fit": "subclasses", "subclasses": 2}, one)
    assert made["directions"].shape == (3, 2, 6)
    committee = known(members=4)
    given = fits.fitted({"fit": "parc", "power": 2.0}, committee)
    members = np.moveaxis(committee.answers["embedding"], 1, 0)
    scores = np.array([losses.parc(x, committee.label) for x in members])
    wanted = np.maximum(scores, 0) ** 2
    np.testing.assert_allclose(given, wanted / wanted.sum(), rtol=1e-4)
    with pytest.raises(ValueError, match="a committee has no single last layer"):
        fits.fitted({"fit": "subclasses"}, committee)


def test_weights_by_influence_are_looked_up_by_example():
    one = known()
    weights = fits.fitted({"fit": "influence", "damping": 0.1}, one)

    def loss(params, batch):
        logits = batch["embedding"] @ params["kernel"] + params["bias"]
        return losses.cross_entropy(logits, batch["label"])

    found = algorithms.influence(
        loss,
        {key: jnp.asarray(value) for key, value in one.head.items()},
        {"embedding": one.answers["embedding"], "label": one.label},
        one.held_out,
    )
    rows = np.array([3, 17, 3])
    given = weights(Context({}, {"id": rows}))
    np.testing.assert_allclose(given, losses.influence_weights(found)[rows], rtol=1e-2)
    with pytest.raises(ValueError, match="wanted a validation split"):
        fits.fitted({"fit": "influence"}, known(held_out=False))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"centers": {"fit": "class_center"}}, 'did you mean "class_centers"'),
        ({"centers": {"fit": "parc", "powr": 1}}, 'did you mean "power"'),
        ({"weights": {"fit": "influence"}}, "taught_by or starts_from"),
    ],
)
def test_fits_are_checked(options, said, tmp_path):
    made = config({"name": "kd", **options})
    with pytest.raises(RecipeError, match=said):
        Experiment(made, load_data(made), tmp_path).check()


def test_groups_of_labels_are_classes():
    whole = data.from_arrays({"image": np.zeros((40, 1)), "label": np.arange(40) % 4})
    assert splits.with_classes(whole, ()) is whole
    merged = splits.with_classes(whole, ((3, 0), (1,), (2,)))
    np.testing.assert_array_equal(merged.arrays["label"], np.array([0, 1, 2, 0] * 10))
    assert merged.num_classes == 3
    with pytest.raises(RecipeError, match="wanted each of 0 to 3 once"):
        splits.with_classes(whole, ((0, 1), (1, 2, 3)))


def test_test_images_are_shifted():
    images = RNG.integers(1, 255, (50, 4, 5, 2)).astype(np.uint8)
    whole = data.from_arrays({"image": images, "label": np.arange(50) % 4})
    assert splits.with_shift(whole, 0) is whole
    shifted = splits.with_shift(whole, 1).arrays["image"]
    seen = set()
    for before, after in zip(images, shifted, strict=True):
        moved = {
            (down, right): np.pad(before, ((1, 1), (1, 1), (0, 0)))[down:, right:][:4, :5]
            for down in range(3)
            for right in range(3)
        }
        seen |= {move for move, image in moved.items() if np.array_equal(image, after)}
    assert len(seen) == 9
    made = config()
    made.data.test_shift = -1
    with pytest.raises(RecipeError, match="test_shift is -1, wanted 0 or more"):
        schema.checked(made)


def test_a_share_of_the_labels_is_known():
    whole = data.from_arrays({"image": np.zeros((40, 1)), "label": np.arange(40) % 4})
    assert splits.with_known_labels(whole, 1.0) is whole
    part = splits.with_known_labels(whole, 0.25)
    assert part.arrays["labelled"].sum() == 10 and part.arrays["labelled"].dtype == bool
    made = config()
    made.data.labelled = 0.0
    with pytest.raises(RecipeError, match=r"labelled is 0\.0, wanted above 0 to 1"):
        schema.checked(made)
