"""Objectives that remember: queues, banks, moving targets, past predictions, gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, objectives
from kdjax.base import Context, ObjectiveVariables

pytestmark = pytest.mark.every(2)

KEY = jax.random.key(0)


def signals(step=0, batch=4, width=3, **extra):
    student, teacher = jax.random.normal(jax.random.fold_in(KEY, step), (2, batch, width))
    named = {"embedding": student, "logits": student}, {"embedding": teacher, "logits": teacher}
    rows = jnp.arange(batch) + batch * (step % 2)
    return Context(
        dict(zip(("student", "teacher"), named, strict=True)),
        {"id": rows, "label": rows % width, **extra},
        step,
        jax.random.fold_in(KEY, 100 + step),
    )


def run(objective, contexts):
    variables = objective.init(KEY, contexts[0])
    seen = []
    for context in contexts:
        terms, state = objective.apply(variables, context)
        variables = ObjectiveVariables(variables.params, state)
        seen.append((terms, state))
    return seen


def test_queue_is_first_in_first_out_and_empty_places_do_not_count():
    contexts = [signals(step) for step in range(5)]
    seen = run(objectives.info_nce(queue_size=8, temperature=0.5), contexts)
    keys = [c.get("teacher:embedding") for c in contexts]
    unit = [k / jnp.linalg.norm(k, axis=-1, keepdims=True) for k in keys]
    np.testing.assert_allclose(seen[2][1]["keys"], jnp.concatenate([unit[2], unit[1]]), rtol=1e-5)
    for step, (terms, _) in enumerate(seen):
        past = unit[max(0, step - 2) : step]
        negatives = jnp.concatenate(past) if past else None
        expected = losses.info_nce(
            contexts[step].get("embedding"), keys[step], negatives=negatives, temperature=0.5
        )
        np.testing.assert_allclose(terms["info_nce"].mean, expected.mean(), rtol=1e-5)


def test_queue_wants_a_multiple_of_the_batch():
    with pytest.raises(
        ValueError, match="queue_size is 6, wanted 0 or a multiple of the batch size 4"
    ):
        objectives.info_nce(queue_size=6).init(KEY, signals())


def test_without_queue_it_is_plain_info_nce():
    objective = objectives.info_nce(temperature=0.2)
    context = signals()
    ((terms, state),) = run(objective, [context])
    assert state == {}
    expected = losses.info_nce(
        context.get("embedding"), context.get("teacher:embedding"), temperature=0.2
    )
    np.testing.assert_allclose(terms["info_nce"].mean, expected.mean(), rtol=1e-6)


def test_crd_moves_the_rows_of_its_batch_only_and_keeps_its_normaliser():
    objective = objectives.crd(num_examples=8, width=5, num_negatives=3)
    contexts = [signals(0), signals(2)]
    before = objective.init(KEY, contexts[0]).state
    seen = run(objective, contexts)
    first, second = seen[0][1], seen[1][1]
    for bank in ("student", "teacher"):
        assert (first[bank][4:] == before[bank][4:]).all()
        assert (first[bank][:4] != before[bank][:4]).any(axis=-1).all()
        np.testing.assert_allclose(jnp.linalg.norm(first[bank][:4], axis=-1), 1, rtol=1e-5)
    assert (first["normalizer"] > 0).all()
    assert (first["normalizer"] == second["normalizer"]).all()


def test_crd_negatives_are_never_the_example_itself():
    rows = jnp.array([0, 3, 7])
    others = objectives.draw_others(KEY, rows, 8, 2000)
    assert not (others == rows[:, None]).any()
    counts = jnp.bincount(others[1], length=8)
    assert counts[3] == 0 and (jnp.delete(counts, 3) > 200).all()


def test_taid_moves_from_the_student_to_the_teacher():
    contexts = [signals(step) for step in range(12)]
    seen = run(objectives.taid(total_steps=10, start=0.2), contexts)
    path = [float(state.t) for _, state in seen]
    assert path == sorted(path) and path[0] == pytest.approx(0.2) and path[-1] == 1.0
    last = contexts[-1]
    np.testing.assert_allclose(
        seen[-1][0]["taid"].mean,
        losses.kl_divergence(last.get("logits"), last.get("teacher:logits")).mean(),
        rtol=1e-5,
    )


def test_taid_uses_t_from_before_the_step():
    terms, state = run(objectives.taid(total_steps=2), [signals(0), signals(1)])[1]
    assert terms["t"].mean == pytest.approx(0.4) and state.t > 0.4


def test_taid_checks_its_range():
    with pytest.raises(ValueError, match="wanted 0 <= start <= end <= 1"):
        objectives.taid(total_steps=3, start=0.9, end=0.5)


def test_ps_kd_starts_from_labels_and_remembers_predictions():
    objective = objectives.ps_kd(num_examples=8, share=0.5)
    contexts = [signals(0), signals(0)._replace(signals=signals(2).signals)]
    seen = run(objective, contexts)
    first, labels = contexts[0].get("logits"), contexts[0].batch["label"]
    np.testing.assert_allclose(
        seen[0][0]["ps_kd"].mean, losses.cross_entropy(first, labels).mean(), rtol=1e-5
    )
    past = seen[0][1]["past"]
    np.testing.assert_allclose(past[:4], jax.nn.softmax(first), rtol=1e-5)
    assert (past[4:] == 0).all()
    expected = losses.ps_kd(contexts[1].get("logits"), past[:4], labels, share=0.5).mean()
    np.testing.assert_allclose(seen[1][0]["ps_kd"].mean, expected, rtol=1e-5)


def committee(members=3):
    student, *teachers = jax.random.normal(KEY, (members + 1, 6, 5))
    return Context(
        {"student": {"logits": student}, "teacher": {"logits": jnp.stack(teachers, 1)}},
        {"label": jnp.arange(6) % 5},
        0,
        KEY,
    )


def test_ensemble_target_is_the_mean_of_probabilities():
    context = committee()
    ((terms, _),) = run(objectives.ensemble_kd(temperature=2.0), [context])
    target = jax.nn.softmax(context.get("teacher:logits") / 2).mean(axis=1)
    expected = -(target * jax.nn.log_softmax(context.get("logits") / 2)).sum(-1).mean()
    np.testing.assert_allclose(terms["ensemble_kd"].mean, expected, rtol=1e-5)


def test_routed_examples_learn_from_their_teachers_only():
    context = committee()
    objective = objectives.routed_kd(members=3, top=1, temperature=2.0)
    variables = objective.init(KEY, context)
    terms, _ = objective.apply(variables, context)
    gate = objectives.gate(variables.params, context.get("logits"))
    chosen = np.asarray(context.get("teacher:logits"))[np.arange(6), np.argmax(gate, -1)]
    expected = losses.kd(context.get("logits"), chosen, temperature=2.0).mean()
    np.testing.assert_allclose(terms["routed_kd"].mean, expected, rtol=1e-5)


def test_the_gate_learns_from_the_balance_alone():
    context = committee()

    def gradient(weight):
        objective = objectives.routed_kd(members=3, balance_weight=weight)
        params = objective.init(KEY, context).params

        def loss(params):
            return objectives.total_loss(
                objective.apply(ObjectiveVariables(params, {}), context)[0]
            )

        return jax.grad(loss)(params)

    assert all((g == 0).all() for g in jax.tree.leaves(gradient(0.0)))
    assert any((g != 0).any() for g in jax.tree.leaves(gradient(1.0)))


def test_routed_kd_checks_its_members():
    with pytest.raises(ValueError, match="members is 2, the committee has 3"):
        objectives.routed_kd(members=2).init(KEY, committee())


def test_discriminator_wants_enough_classes():
    with pytest.raises(ValueError, match="reduction is 8 for 10 classes"):
        objectives.output_discriminator(10)
