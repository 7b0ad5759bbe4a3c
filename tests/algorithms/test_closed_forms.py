"""Gradients that are aligned, influence of examples, and kernel ridge regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import algorithms

RNG = np.random.default_rng(0)
TREE = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([[2.0]])}


def dot(a, b):
    return sum(float(jnp.sum(x * y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_gradients_that_agree_are_added():
    merged = algorithms.gradient_align(TREE, TREE)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, 2 * y), merged, TREE)


def test_a_gradient_that_disagrees_is_projected_over_all_leaves_together():
    other = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([[-4.0]])}
    assert dot(TREE, other) < 0
    merged = algorithms.gradient_align(TREE, other)
    projected = jax.tree.map(lambda x, y: x - y, merged, TREE)
    np.testing.assert_allclose(dot(projected, TREE), 0, atol=1e-6)
    # Leaf by leaf, the first one agrees and would have stayed as it is.
    assert not np.allclose(projected["a"], other["a"])
    turned = algorithms.gradient_align(other, TREE)
    assert not np.allclose(turned["a"], merged["a"])


def test_no_anchor_changes_nothing():
    nothing = jax.tree.map(jnp.zeros_like, TREE)
    merged = algorithms.gradient_align(nothing, TREE)
    jax.tree.map(np.testing.assert_array_equal, merged, TREE)


def test_gradients_of_other_structure_are_refused():
    with pytest.raises(ValueError):
        algorithms.gradient_align(TREE, {"a": TREE["a"]})


X, Y = RNG.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3
X_VAL, Y_VAL = RNG.normal(size=(5, 4)).astype(np.float32), np.arange(5) % 3
BATCH, HELD_OUT = {"x": X, "y": Y}, {"x": X_VAL, "y": Y_VAL}
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=3), jnp.float32),
}


def softmax_regression(params, batch):
    log_q = jax.nn.log_softmax(batch["x"] @ params["kernel"] + params["bias"])
    return -jnp.take_along_axis(log_q, batch["y"][:, None], axis=1)[:, 0]


def test_influence_of_softmax_regression():
    """The Hessian in closed form, `mean_i (diag(p) - p pᵀ) ⊗ x xᵀ`, in float64."""
    x = np.append(np.float64(X), np.ones((12, 1)), axis=1)
    x_val = np.append(np.float64(X_VAL), np.ones((5, 1)), axis=1)
    weights = np.append(np.float64(PARAMS["kernel"]), [PARAMS["bias"]], axis=0)

    def predict(x):
        e = np.exp(x @ weights)
        return e / e.sum(1, keepdims=True)

    p = predict(x)
    hessian = sum(
        np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q)) for a, q in zip(x, p, strict=True)
    )
    hessian = hessian / len(x) + 0.2 * np.eye(15)
    gradients = np.einsum("id,ic->idc", x, p - np.eye(3)[Y]).reshape(12, -1)
    val = np.einsum("id,ic->idc", x_val, predict(x_val) - np.eye(3)[Y_VAL]).reshape(5, -1).mean(0)
    wanted = -gradients @ np.linalg.solve(hessian, val)
    given = algorithms.influence(softmax_regression, PARAMS, BATCH, HELD_OUT, damping=0.2)
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-5)
    iterated = algorithms.influence(
        softmax_regression, PARAMS, BATCH, HELD_OUT, damping=0.2, iterations=40
    )
    np.testing.assert_allclose(iterated, given, rtol=1e-3, atol=1e-5)


def test_more_weight_on_an_example_changes_the_loss_as_its_influence_says():
    """One dimension, trained to the optimum: the weight is raised and the optimum solved again."""
    x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 1.0, 4.0])

    def loss(w, batch):
        return 0.5 * (w * batch["x"] - batch["y"]) ** 2

    def optimum(weights):
        return jnp.sum(weights * x * y) / jnp.sum(weights * x**2)

    held_out = {"x": jnp.array([1.5]), "y": jnp.array([1.0])}
    batch = {"x": x, "y": y}
    given = algorithms.influence(loss, optimum(jnp.ones(3)), batch, held_out, damping=1e-6)
    slope = jax.grad(lambda weights: loss(optimum(weights), held_out)[0])(jnp.ones(3))
    # Influence is for a weight beside a mean loss, so that of a sum is a third.
    np.testing.assert_allclose(given / 3, slope, rtol=1e-4)


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"iterations": 0}])
def test_influence_checks_its_arguments(options):
    with pytest.raises(ValueError, match="wanted a number above 0"):
        algorithms.influence(softmax_regression, PARAMS, BATCH, HELD_OUT, **options)


POINTS = np.linspace(0, 1, 11)[:, None].astype(np.float32)
TARGETS = np.stack([np.sin(6 * POINTS[:, 0]), POINTS[:, 0]], axis=1).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_fit_is_ridge_regression_on_the_mixture(share):
    kernel = algorithms.rbf_kernel(POINTS, POINTS, gamma=30.0)
    fits = algorithms.kernel_self_distillation(
        kernel, TARGETS, ridge=0.2, generations=4, label_share=share
    )
    smoother = np.float64(kernel) @ np.linalg.inv(np.float64(kernel) + 0.2 * np.eye(11))
    now = np.float64(TARGETS)
    for fit in fits:
        now = smoother @ (share * TARGETS + (1 - share) * now)
        np.testing.assert_allclose(fit, now, atol=2e-6)


def test_fits_go_to_the_limit():
    kernel = algorithms.rbf_kernel(POINTS, POINTS, gamma=30.0)
    options = {"ridge": 0.2, "label_share": 0.3}
    fits = algorithms.kernel_self_distillation(kernel, TARGETS, generations=60, **options)
    limit = algorithms.kernel_self_distillation_limit(kernel, TARGETS, **options)
    np.testing.assert_allclose(fits[-1], limit, atol=1e-5)
    ridge = {"ridge": 0.2 / 0.3, "generations": 1}
    np.testing.assert_allclose(
        algorithms.kernel_self_distillation(kernel, TARGETS, **ridge)[0], limit, atol=1e-5
    )
    nothing = algorithms.kernel_self_distillation_limit(kernel, TARGETS, ridge=0.2)
    np.testing.assert_array_equal(nothing, np.zeros_like(TARGETS))


def test_kernel_ridge_checks_its_arguments():
    kernel = jnp.eye(3)
    fit = algorithms.kernel_self_distillation
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 3\), wanted \(2, 2\)"):
        fit(kernel, jnp.ones(2), ridge=1.0, generations=1)
    with pytest.raises(ValueError, match="ridge is 0, wanted a number above 0"):
        fit(kernel, jnp.ones(3), ridge=0, generations=1)
    with pytest.raises(ValueError, match="generations is 0, wanted a number above 0"):
        fit(kernel, jnp.ones(3), ridge=1.0, generations=0)
    with pytest.raises(ValueError, match="label_share is 2, wanted a number from 0 to 1"):
        fit(kernel, jnp.ones(3), ridge=1.0, generations=1, label_share=2)


def test_the_optimal_share_of_the_truth_is_the_bottom_of_the_parabola():
    kernel = algorithms.rbf_kernel(POINTS, POINTS, gamma=30.0)
    truth = TARGETS + 0.3 * RNG.normal(size=TARGETS.shape).astype(np.float32)
    first, second = algorithms.kernel_self_distillation(kernel, truth, ridge=0.2, generations=2)
    given = algorithms.optimal_label_share(TARGETS, first, second)

    def error(share):
        fits = algorithms.kernel_self_distillation(
            kernel, truth, ridge=0.2, generations=2, label_share=float(share)
        )
        return np.sum((np.float64(fits[1]) - TARGETS) ** 2)

    shares = np.linspace(0, 1, 5)
    parabola = np.polyfit(shares, [error(share) for share in shares], 2)
    np.testing.assert_allclose(given, -parabola[1] / (2 * parabola[0]), rtol=1e-2)
    assert algorithms.optimal_label_share(truth, first, first) == 1
    with pytest.raises(ValueError, match="wanted the same for all"):
        algorithms.optimal_label_share(truth, first, first[:3])
