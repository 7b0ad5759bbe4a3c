"""Objectives that choose examples or classes, and those of students with several answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, objectives
from kdjax.base import EMPTY, Context

KEY = jax.random.key(0)
BATCH, CLASSES, WIDTH = 8, 4, 5
STUDENT, TEACHER = 3 * jax.random.normal(KEY, (2, BATCH, CLASSES))
FEATURE = jax.random.normal(KEY, (BATCH, 2, 2, WIDTH))
LABELS = jnp.arange(BATCH) % CLASSES


def context(networks=None, **signals):
    student = {"logits": STUDENT, **signals}
    roles = {"student": student, "teacher": {"logits": TEACHER}}
    return Context(roles, {"label": LABELS}, 0, KEY, networks or {})


def test_selected_kd_is_the_mean_over_the_selected():
    objective = objectives.selected_kd(threshold=0.6, temperature=2.0)
    terms, _ = objective.apply(objective.init(KEY, context()), context())
    chosen = losses.select_confident(STUDENT, TEACHER, threshold=0.6)
    assert 0 < chosen.sum() < BATCH
    wanted = losses.kd(STUDENT, TEACHER, temperature=2.0)[chosen].mean()
    np.testing.assert_allclose(terms["selected_kd"].mean, wanted, rtol=1e-5)


def test_dkpp_draws_anew_and_keeps_the_confidence():
    objective = objectives.dkpp(temperature=2.0)
    one = objective.apply(EMPTY, context())[0]["dkpp"].mean
    other = objective.apply(EMPTY, context()._replace(key=jax.random.key(1)))[0]["dkpp"].mean
    assert one != other
    permuted = losses.permute_others(TEACHER, KEY)
    wanted = losses.soft_cross_entropy(STUDENT, permuted, temperature=2.0).mean()
    np.testing.assert_allclose(one, wanted, rtol=1e-6)


SUBSETS = ((0, 1), (1, 2, 3))
COMMITTEE = jax.random.normal(KEY, (BATCH, 2, CLASSES))


def specialists(student=STUDENT, labels=LABELS):
    roles = {"student": {"logits": student}, "teacher": {"logits": COMMITTEE}}
    return Context(roles, {"label": labels})


def of_specialist(index, mine):
    """Only the classes of the subset are cut out and compared."""
    subset = list(SUBSETS[index])
    values = losses.kd(STUDENT[:, subset], COMMITTEE[:, index, subset], temperature=2.0)
    return values[mine].mean()


def test_specialists_teach_their_classes_at_their_paces():
    objective = objectives.knowledge_concentration(subsets=SUBSETS, temperature=2.0, pace=0.5)
    variables = objective.init(KEY, specialists())
    terms, state = objective.apply(variables, specialists())
    mine = [np.isin(LABELS, subset) for subset in SUBSETS]
    wanted = [of_specialist(index, own) for index, own in enumerate(mine)]
    for index in range(2):
        term = terms[f"specialist_{index}"]
        np.testing.assert_allclose(term.mean, wanted[index], rtol=1e-5)
        assert term.weight == 1
    np.testing.assert_allclose(state["mean"], wanted, rtol=1e-5)
    terms, state = objective.apply(variables._replace(state=state), specialists())
    paces = np.sqrt(wanted) / np.mean(np.sqrt(wanted))
    given = [terms[f"specialist_{index}"].weight for index in range(2)]
    np.testing.assert_allclose(given, paces, rtol=1e-5)


def test_a_specialist_without_examples_keeps_its_pace():
    objective = objectives.knowledge_concentration(subsets=SUBSETS, decay=0.5)
    variables = objective.init(KEY, specialists())
    _, state = objective.apply(variables, specialists(labels=jnp.zeros(BATCH, int)))
    assert state["mean"][1] == 1 and state["seen"][1] == 0 and state["seen"][0] == 1
    everyone = objectives.knowledge_concentration(subsets=SUBSETS, labels=None, temperature=2.0)
    terms, _ = everyone.apply(variables, specialists())
    np.testing.assert_allclose(
        terms["specialist_1"].mean, of_specialist(1, np.ones(BATCH, bool)), rtol=1e-5
    )


def test_specialists_check_their_arguments():
    with pytest.raises(ValueError, match="wanted classes for each specialist"):
        objectives.knowledge_concentration(subsets=((0,), ()))
    with pytest.raises(ValueError, match="decay is 1, wanted"):
        objectives.knowledge_concentration(subsets=SUBSETS, decay=1)
    with pytest.raises(ValueError, match="there are 3 subsets for 2 members"):
        objectives.knowledge_concentration(subsets=(*SUBSETS, (0,))).init(KEY, specialists())


def test_exits_read_pooled_features_and_learn_from_the_last_logits():
    here = context(middle=FEATURE)
    objective = objectives.ofa_exits(features=("middle",), gamma=1.3, exit_weight=0.5)
    variables = objective.init(KEY, here)

    def total(feature, params):
        seen = context(middle=feature)
        terms, _ = objective.apply(variables._replace(params=params), seen)
        return objectives.total_loss(terms)

    params = variables.params["middle"]["head"]
    answer = FEATURE.mean((1, 2)) @ params["kernel_0"] + params["bias_0"]
    wanted = losses.ofa(STUDENT, TEACHER, LABELS, gamma=1.3).mean()
    wanted += 0.5 * losses.ofa(answer, TEACHER, LABELS, gamma=1.3).mean()
    np.testing.assert_allclose(total(FEATURE, variables.params), wanted, rtol=1e-5)
    by_feature, by_params = jax.grad(total, (0, 1))(FEATURE, variables.params)
    assert np.any(by_feature != 0) and np.any(by_params["middle"]["head"]["kernel_0"] != 0)
    with pytest.raises(ValueError, match="features is empty"):
        objectives.ofa_exits(features=())


def test_sla_turns_the_images_itself():
    images = jax.random.normal(KEY, (BATCH, 3, 3, 1))
    kernel = jax.random.normal(KEY, (9, CLASSES * 4))

    def network(batch):
        return {"joint_logits": batch["image"].reshape(BATCH, -1) @ kernel}

    here = context({"student": network})
    here = here._replace(batch={**here.batch, "image": images})
    terms, _ = objectives.sla(temperature=2.0).apply(EMPTY, here)
    turned = np.stack([np.rot90(images, k, axes=(1, 2)) for k in range(4)], axis=1)
    joint = turned.reshape(BATCH, 4, 9) @ np.asarray(kernel)
    wanted = losses.sla((joint, STUDENT), LABELS, temperature=2.0).mean()
    np.testing.assert_allclose(terms["sla"].mean, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="views is 5, wanted 1 to 4 rotations"):
        objectives.sla(views=5)


def test_lelp_is_least_where_the_student_has_the_subclasses():
    embedding = jax.random.normal(KEY, (BATCH, WIDTH + 3))
    kernel = jax.random.normal(KEY, (WIDTH + 3, CLASSES))
    fitted = losses.fit_subclasses(embedding, LABELS, kernel, 2)
    objective = objectives.lelp(fitted=fitted, subclass_temperature=0.5)
    target = losses.subclass_targets(TEACHER, embedding, **fitted, subclass_temperature=0.5)

    def loss(subclass_logits):
        here = context(subclass_logits=subclass_logits)
        here.signals["teacher"]["embedding"] = embedding
        return objective.apply(EMPTY, here)[0]["lelp"].mean

    entropy = -jnp.sum(jnp.exp(target) * target, axis=-1).mean()
    np.testing.assert_allclose(loss(target), entropy, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(loss)(target), 0, atol=1e-6)


def test_sim_clr_compares_the_projections_of_two_views():
    images, other = jax.random.normal(KEY, (2, BATCH, WIDTH))

    def network(batch):
        return {"embedding": jnp.tanh(batch["image"])}

    here = context({"student": network}, embedding=jnp.tanh(images))
    here = here._replace(batch={**here.batch, "image": images, "teacher_image": other})
    objective = objectives.sim_clr(temperature=0.2, hidden=6, width=3)
    variables = objective.init(KEY, here)
    terms, _ = objective.apply(variables, here)
    params = variables.params
    views = [
        jax.nn.relu(jnp.tanh(x) @ params["kernel_0"] + params["bias_0"]) @ params["kernel_1"]
        + params["bias_1"]
        for x in (images, other)
    ]
    wanted = losses.sim_clr(jnp.stack(views, axis=1), temperature=0.2).mean()
    np.testing.assert_allclose(terms["sim_clr"].mean, wanted, rtol=1e-5)
    assert objective.coupled


IMAGES = jnp.arange(2 * 5 * 5, dtype=jnp.float32).reshape(2, 5, 5, 1)


@pytest.mark.parametrize("move, wanted", [
    ([1.0, 0.0, 0.0, 0.0], lambda x: np.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))),
    ([0.0, -2.0, 0.0, 0.0], lambda x: np.pad(x[:, :, :-2], ((0, 0), (0, 0), (2, 0), (0, 0)))),
    ([0.0, 0.0, np.pi / 2, 0.0], lambda x: np.rot90(x, -1, axes=(1, 2))),
])  # fmt: skip
def test_images_are_read_at_the_moved_places(move, wanted):
    """A bias that saturates `tanh` fixes the move at its bound."""
    bounds = {"max_shift": max(map(abs, move[:2])), "max_angle": move[2]}
    augmentor = objectives.affine_augmentor(**bounds)
    params = augmentor.init(KEY, {})["params"]
    params |= {"kernel_1": 0 * params["kernel_1"], "bias_1": 100 * jnp.array(move)}
    given = augmentor.apply({"params": params}, {"image": IMAGES}, key=KEY)[0]["image"]
    np.testing.assert_allclose(given, wanted(np.asarray(IMAGES)), atol=1e-4)


def test_the_augmentor_starts_near_the_identity_and_checks_its_bounds():
    augmentor = objectives.affine_augmentor(max_shift=0.1)
    variables = augmentor.init(KEY, {})
    still = augmentor.apply(variables, {"image": IMAGES})[0]["image"]
    np.testing.assert_allclose(still[:, 1:-1, 1:-1], IMAGES[:, 1:-1, 1:-1], atol=0.5)
    with pytest.raises(ValueError, match="max_scale 1; wanted none below 0, and a scale below 1"):
        objectives.affine_augmentor(max_scale=1)


def test_disagreement_stops_paying_at_the_ceiling():
    def networks(shift):
        return {
            "augmentor": lambda batch: {"image": batch["image"] + shift},
            "student": lambda batch: {"logits": batch["image"]},
            "teacher": lambda batch: {"logits": TEACHER + 0 * batch["image"]},
        }

    def agreement(shift, ceiling):
        here = context(networks(shift * jnp.arange(CLASSES)))
        here = here._replace(batch={**here.batch, "image": STUDENT})
        terms, _ = objectives.disagreement(ceiling=ceiling).apply(EMPTY, here)
        assert terms["stability"].mean < 1e-6
        return terms["agreement"].mean

    apart = losses.kl_divergence(STUDENT, TEACHER).mean()
    np.testing.assert_allclose(agreement(0.0, 1e9), -apart, rtol=1e-5)
    assert jax.grad(agreement)(0.0, 1e9) != 0
    assert agreement(0.0, 1e-3) == pytest.approx(-1e-3)
    assert jax.grad(agreement)(0.0, 1e-3) == 0
