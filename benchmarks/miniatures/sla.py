"""Labels of class and rotation together, and their aggregate distilled into one pass (SLA+SD).

Claims (arXiv:1910.05872): the aggregate over four rotations of a head that tells class and rotation
together is better than rotations as augmentation, and a head of one pass that is distilled from it
along the way comes close to it.

500 images of Fashion-MNIST, 50 of each class, other ones for each seed; a small mixer. Compared:
labels alone; the four rotations of each image with the same label, answering for the upright image
(ce_with_rotations) and by the mean over the four (rotations_aggregate); and the two heads of
`objectives.sla`. All see each image equally often.

Outcome: labels 74.7 ± 1.4, ce_with_rotations 67.8 ± 1.1, rotations_aggregate 73.9 ± 0.8,
sla_aggregate 78.8 ± 0.8, sla_single 75.5 ± 0.7 (5 seeds). The aggregate is better than rotations as
augmentation by 11.0 ± 0.6 points, and by 4.9 ± 0.3 where those answer with four passes too:
reproduced. The head of one pass stays 3.3 ± 0.3 points behind the aggregate and is not told from
labels alone (+0.8 ± 0.3): not reproduced. Before, two seeds had 600 steps, with the same outcome.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

import kdjax
from benchmarks.miniatures import common
from kdjax import losses, models, objectives

VIEWS = 4
CLAIM = common.Claim(
    "SLA+SD",
    "1910.05872",
    "with few images the aggregate over rotations is better than rotations as augmentation, and a "
    "head of one pass comes close to it",
)
COMPARED = (
    common.Compared("sla_aggregate", "ce_with_rotations"),
    common.Compared("sla_aggregate", "rotations_aggregate"),
    common.Compared("sla_single", "sla_aggregate", margin=1.0),
    common.Compared("sla_single", "labels"),
)
NETWORK = models.from_linen(
    models.Mixer(patch_size=7, width=64, depth=2, token_hidden=32, channel_hidden=128)
)
TWO_HEADS = models.with_heads(NETWORK, {"joint_logits": 10 * VIEWS})


def run(seed: int, steps: int = 400) -> dict[str, float]:
    examples, test = few(seed), common.columns("fashion_mnist", "test[:30%]")
    states = {
        arm: common.train(made, examples, seed, steps, batch_size=50)
        for arm, made in algorithms(steps).items()
    }
    labels, rotations, sla = (common.student(states[arm]) for arm in ("labels", "rotations", "sla"))
    turned = functools.partial(answers, test=test)
    joint = turned(TWO_HEADS, sla, "joint_logits")
    return {
        "labels": common.score(NETWORK, labels, test),
        "ce_with_rotations": common.score(NETWORK, rotations, test),
        "rotations_aggregate": common.accuracy(
            turned(NETWORK, rotations, "logits").mean(1), test["label"]
        ),
        "sla_aggregate": common.accuracy(losses.aggregate_views(joint), test["label"]),
        "sla_single": common.score(TWO_HEADS, sla, test),
    }


@functools.cache
def algorithms(steps):
    tx, labels = common.optimizer(3e-3, steps), kdjax.lift(losses.cross_entropy)
    return {
        "labels": common.learner(NETWORK, labels, tx),
        "rotations": common.learner(NETWORK, labels, tx, augment=all_rotations),
        "sla": common.learner(TWO_HEADS, objectives.sla(views=VIEWS), tx),
    }


def few(seed, per_class=50):
    """So many images of each class."""
    pool = common.columns("fashion_mnist", "train[:10%]")
    order = np.random.default_rng(seed).permutation(len(pool["label"]))
    chosen = [order[pool["label"][order] == label][:per_class] for label in range(10)]
    return common.rows(pool, np.concatenate(chosen))


def all_rotations(key, batch):
    """A batch of four times the size."""
    del key
    views = [jnp.rot90(batch["image"], k, axes=(1, 2)) for k in range(VIEWS)]
    return {"image": jnp.concatenate(views), "label": jnp.tile(batch["label"], VIEWS)}


def answers(model, variables, name, test):
    """A signal for each rotation of the test images, `[images, views, …]`."""
    views = [np.rot90(test["image"], k, axes=(1, 2)) for k in range(VIEWS)]
    return np.stack(
        [common.signals(model, variables, {"image": view})[name] for view in views], axis=1
    )
