"""Many masks that are shifted and few that are not: fine-tuning against distillation (off-nadir).

Claim (arXiv:2311.03867): a network trained on the many shifted masks and fine-tuned on the few
clean ones is better than a student distilled pixel by pixel from it, and than two that learn from
each other.

1,500 scenes with masks that are one or two pixels too low and too far right, as buildings are in
pictures taken aslant; 10 with clean masks, other ones for each seed (see scenes.py). Compared: the
network of the many (noisy), of the few (clean), the first trained on with the second (fine_tuned);
and on the few, from the start, with the labels and the network of the many (kd), and as two peers
(mutual), of which the first is taken. The measure is the intersection over union of 500 test scenes
with clean masks. Fine-tuning has as many steps as each of the others, after those of the many.

Outcome: noisy 50.3 ± 0.5, clean 54.4 ± 1.6, kd 53.8 ± 1.3, mutual 55.1 ± 2.0, fine_tuned 56.7 ± 2.0
(5 seeds). Fine-tuning is better than kd by 2.9 ± 0.7 points, and than mutual learning by 1.7 ± 0.4:
reproduced. Tried before, on two seeds: 30 clean masks and half the steps for fine-tuning, where the
few alone were better by a point. The seeds 5 to 9, run afterwards, say the same as the first five
(+3.2 ± 0.5 and +2.4 ± 0.5).
"""

from __future__ import annotations

import functools

import kdjax
from benchmarks.miniatures import common, scenes
from benchmarks.miniatures.scenes import SEGMENTER
from kdjax import losses, objectives
from kdjax.algorithms import mutual_learning

CLAIM = common.Claim(
    "Off-nadir buildings",
    "2311.03867",
    "with few clean masks, fine-tuning a network of many shifted ones is better than distilling "
    "it, and than mutual learning",
    "intersection over union, %",
)
COMPARED = (
    common.Compared("fine_tuned", "kd"),
    common.Compared("fine_tuned", "mutual"),
    common.Compared("fine_tuned", "clean"),
)


def run(seed: int, steps: int = 400) -> dict[str, float]:
    pool, clean = scenes.scenes("train[:5%]", 3000), scenes.scenes("train[95%:]", 1000)
    many, few = scenes.some(scenes.shifted(pool), 1500, seed), scenes.some(clean, 10, seed)
    test = scenes.scenes("test[:5%]", 500)
    labels, fine_tuning, kd, mutual = algorithms(steps)
    train = functools.partial(scenes.train, seed=seed)
    noisy = common.student(train(labels, many, steps=steps))
    states = {
        "clean": train(labels, few, steps=steps),
        "fine_tuned": train(fine_tuning, few, steps=steps, variables={"student": noisy}),
        "kd": train(kd, few, steps=steps, frozen={"teacher": noisy}),
    }
    found = {name: common.student(state) for name, state in states.items()}
    found |= {"noisy": noisy, "mutual": common.student(train(mutual, few, steps=steps), "one")}
    return {name: scenes.iou(SEGMENTER, variables, test) for name, variables in found.items()}


@functools.cache
def algorithms(steps):
    """By labels, fine-tuning, distillation and mutual learning."""
    tx, labels = common.optimizer(3e-3, steps), kdjax.lift(losses.cross_entropy)
    kd = objectives.with_labels(
        kdjax.lift(losses.kd, temperature=2.0), labels, weight=0.5, label_weight=0.5
    )
    return (
        common.learner(SEGMENTER, labels, tx),
        common.learner(SEGMENTER, labels, common.optimizer(1e-3, steps)),
        common.learner(SEGMENTER, kd, tx, {"teacher": SEGMENTER}),
        mutual_learning({"one": SEGMENTER, "two": SEGMENTER}, tx),
    )
