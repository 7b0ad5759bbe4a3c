"""Every kind of algorithm on a small problem, for tests that hold for all of them."""

import jax
import jax.numpy as jnp
import optax

import kdjax
from kdjax import algorithms, losses, models, objectives, parallel

CLASSES, SIZE, BATCH, EXAMPLES = 16, 6, 16, 48

rules = parallel.Rules((("head$", parallel.P(None, ("fsdp", "tensor"))),), smallest=16)
"""The head's classes are split over two axes, other arrays by the automatic rule."""


def network(width: int) -> kdjax.Model:
    """Two layers with taps to hidden features; small enough to read."""

    def init(key):
        keys = jax.random.split(key, 2)
        return {
            "hidden": jax.random.normal(keys[0], (SIZE, width)) * SIZE**-0.5,
            "head": jax.random.normal(keys[1], (width, CLASSES)) * width**-0.5,
        }

    def apply(params, x):
        hidden = jnp.tanh(x @ params["hidden"])
        return {
            "logits": 3 * hidden @ params["head"],
            "embedding": hidden,
            "map": hidden.reshape(*hidden.shape[:1], 2, 2, -1),
        }

    return models.from_callable(apply, init)


def batch(step: int = 0) -> dict:
    key = jax.random.fold_in(jax.random.key(7), step)
    made = {
        "image": jax.random.normal(key, (BATCH, SIZE)),
        "label": jax.random.randint(key, (BATCH,), 0, CLASSES),
        "id": jax.random.permutation(key, EXAMPLES)[:BATCH],
        "mask": jax.random.bernoulli(key, 0.7, (BATCH,)),
    }
    return made


def offline(objective: kdjax.Objective, committee: int = 0):
    """A student of width 8 under a frozen teacher of width 12, or a committee of such teachers."""
    teacher = network(12)
    if committee:
        teacher = models.ensemble([teacher] * committee)

    def make(**options):
        return algorithms.distill(network(8), teacher, objective, optax.adam(1e-2), **options)

    return make, {"teacher": teacher.init(jax.random.key(3), batch())}


def _alone(scheme, *args, **fixed):
    """A scheme without a frozen teacher."""
    return (lambda **options: scheme(*args, optimizer=optax.adam(1e-2), **fixed, **options)), {}


def exemplars() -> dict:
    """By name: a function `make(**engine options) -> Algorithm`, and the frozen variables."""
    lift = kdjax.lift
    # One objective with all losses on logits as terms: each is reported, so each is compared.
    logit_losses = [
        "kl_divergence",
        "reverse_kl",
        "symmetric_kl",
        "jensen_shannon",
        "generalized_jensen_shannon",
        "skew_kl",
        "skew_reverse_kl",
        "total_variation",
        "hellinger",
        "alpha_divergence",
        "chi_squared",
        "kd",
        "dkd",
        "nkd",
        "kd_logit_standardization",
    ]
    made = {
        "all_logit_losses": offline(
            objectives.weighted_sum({name: lift(getattr(losses, name)) for name in logit_losses})
        ),
        "dist": offline(lift(losses.dist)),
    }
    made |= {
        "masked_kd": offline(lift(losses.kd, where="mask")),
        "kd_with_labels": offline(
            objectives.with_labels(
                lift(losses.kd), lift(losses.cross_entropy), weight=0.9, label_weight=0.1
            )
        ),
        "gated": offline(
            objectives.gated(lift(losses.kd, where="gate"), objectives.teacher_is_right)
        ),
        "annealed": offline(lift(losses.kd, temperature=optax.linear_schedule(4.0, 1.0, 4))),
        "hint": offline(
            objectives.projected(
                lift(losses.hint, student="embedding", teacher="embedding"),
                objectives.projectors.linear(),
                student="embedding",
                like="teacher:embedding",
            )
        ),
        "attention_transfer": offline(
            lift(losses.attention_transfer, student="map", teacher="map")
        ),
        "similarity_preserving": offline(
            lift(losses.similarity_preserving, student="embedding", teacher="embedding")
        ),
        "rkd": offline(lift(losses.rkd, student="embedding", teacher="embedding")),
        "stages": offline(objectives.stages([lift(losses.kd), lift(losses.dkd)], boundaries=[2])),
        "info_nce": offline(
            objectives.projected(
                objectives.info_nce(queue_size=2 * BATCH),
                objectives.projectors.linear(),
                student="embedding",
                like="teacher:embedding",
            )
        ),
        "crd": offline(objectives.crd(num_examples=EXAMPLES, width=5, num_negatives=7)),
        "taid": offline(objectives.taid(total_steps=5)),
        "ps_kd": offline(objectives.ps_kd(num_examples=EXAMPLES, share=0.6)),
        "ensemble_kd": offline(objectives.ensemble_kd(temperature=2.0), committee=3),
        "routed_kd": offline(objectives.routed_kd(members=3, top=2), committee=3),
    }
    made["mutual_learning"] = _alone(
        algorithms.mutual_learning, {"a": network(8), "b": network(12), "c": network(4)}
    )
    made["average_self_distillation"] = _alone(
        algorithms.average_self_distillation,
        network(8),
        objectives.with_labels(lift(losses.kd), lift(losses.cross_entropy)),
        decay=0.9,
    )
    two_heads = models.with_heads(network(8), {"kd_logits": CLASSES})
    teacher = network(12)
    made["dual_head_kd"] = (
        lambda **options: algorithms.dual_head_kd(two_heads, teacher, optax.adam(1e-2), **options),
        {"teacher": teacher.init(jax.random.key(3), batch())},
    )
    committee = [network(12)] * 2
    frozen = {"teacher": models.ensemble(committee).init(jax.random.key(3), batch())}
    for name, adversarial in (("meal_v2", False), ("meal_v2_adversarial", True)):
        make, _ = _alone(
            algorithms.meal_v2,
            network(8),
            committee,
            num_classes=CLASSES,
            reduction=2,
            adversarial=adversarial,
        )
        made[name] = (make, frozen)
    return made


def run(algorithm: kdjax.Algorithm, frozen: dict, steps: int = 5):
    """State and metrics after some steps."""
    state = algorithm.init(jax.random.key(0), batch(), frozen)
    history = []
    for step in range(steps):
        state, metrics = algorithm.step(state, batch(step), frozen)
        history.append(metrics)
    return state, history
