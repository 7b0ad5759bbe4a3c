"""The fused forms give the plain values and gradients, for all terms, options and teachers."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from kdjax import distributions as D
from kdjax.losses import divergences

pytestmark = pytest.mark.every(2)

HEAD = {"scale": 1.0, "softcap": None, "bias": False}
OPTIONS = {
    "mask": ({}, ("where",)),
    "temperature": ({"temperature": 2.0, "scale_by_t2": True}, ()),
    "softcap": ({"softcap": 2.0}, ()),
    "scale": ({"scale": 0.6}, ()),
    "bias": ({"bias": True}, ()),
    "label mix": ({"label_weight": 0.3, "divergence_weight": 0.7}, ("labels",)),
}
EVERYTHING = {name: x for given, _ in OPTIONS.values() for name, x in given.items()}
OPTIONS["everything"] = (EVERYTHING, ("where", "labels"))
TEACHERS = ("dense", "linear", "sparse", "samples")
ARRAYS = plain.data()
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
COUNT = len(plain.TERMS)
BY = ("hidden", "kernel", "bias")


def forms(teacher, options, array_names, chunk_size, tail="ghost", names=tuple(plain.TERMS)):
    """Value, losses per token (or none) and gradients in plain, per-token and summed form."""
    of_head = {**HEAD, **{name: options[name] for name in HEAD if name in options}}
    of_loss = {name: x for name, x in options.items() if name not in HEAD} | {"tail": tail}
    of_loss |= {name: ARRAYS[name] for name in array_names}

    def student(own):
        bias = own["bias"] if of_head["bias"] else None
        return D.Linear(own["hidden"], own["kernel"], bias, of_head["scale"], of_head["softcap"])

    def written_out(own, term):
        losses = plain.loss(term, plain.head(own, **of_head), teacher, **of_loss)
        return jnp.sum(ARRAYS["weights"] * losses), losses

    def per_token(own, term):
        given = of_loss | {"chunk_size": chunk_size}
        losses = D.divergence(term)(student(own), teacher, **given)
        return jnp.sum(ARRAYS["weights"] * losses), losses

    def summed(own, term):
        given = of_loss | {"chunk_size": chunk_size}
        return D.weighted_sum(term)(student(own), teacher, ARRAYS["weights"], **given), None

    # Compiling is what takes the time here, not running.
    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(own, index):
        term = functools.partial(plain.any_term, index=index, names=names)
        gradient = functools.partial(jax.value_and_grad, has_aux=True)
        return [gradient(form)(own, term) for form in (written_out, per_token, summed)]

    return functools.partial(run, {name: ARRAYS[name] for name in BY})


def assert_forms_agree(run, count=COUNT):
    for index in range(count):
        ((total, losses), wanted), ((_, given), first), ((summed, _), second) = run(
            jnp.int32(index)
        )
        plain.assert_close((given, summed), (losses, total))
        plain.assert_close((first, second), (wanted, wanted))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((first, second)))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_term_option_and_teacher(option, teacher):
    """Every pair of term, option and teacher occurs; KDJAX_FULL_TESTS=1 takes all triples."""
    names = tuple(plain.TERMS)
    if option != "everything" and not os.environ.get("KDJAX_FULL_TESTS"):
        first = list(OPTIONS).index(option) + TEACHERS.index(teacher)
        names = names[first % 4 :: 4]
    target = plain.teacher_of(teacher, ARRAYS)
    run = forms(target, *OPTIONS[option], chunk_size=8, names=names)
    assert_forms_agree(run, len(names))


@pytest.mark.parametrize("tail", ["renormalize", "zero", "uniform", "drop"])
def test_every_term_and_tail(tail):
    teacher = plain.teacher_of("sparse", ARRAYS)
    assert_forms_agree(forms(teacher, *OPTIONS["everything"], chunk_size=6, tail=tail))


@pytest.mark.parametrize("chunk_size", [1, 5, 21, 64, None])
def test_no_chunk_size_changes_the_numbers(chunk_size):
    term = divergences.reverse_kl_term

    def total(own, chunk_size):
        student = D.Linear(own["hidden"], own["kernel"], own["bias"], softcap=2.0)
        losses = D.divergence(term)(
            student, D.Dense(ARRAYS["teacher"]), where=ARRAYS["where"], chunk_size=chunk_size
        )
        return jnp.sum(ARRAYS["weights"] * losses)

    own = {name: ARRAYS[name] for name in BY}
    gradient = jax.jit(jax.value_and_grad(total), static_argnums=1)
    plain.assert_close(gradient(own, chunk_size), gradient(own, 7))


@pytest.mark.parametrize("name", plain.TERMS)
def test_dense_pairs_equal_the_losses(name):
    term, student = plain.TERMS[name], plain.head(ARRAYS, 1.0, None, True)
    student = student.at[0, 0, 3].set(-jnp.inf).at[0, 1].set(1e4)
    options = {"temperature": 1.7, "scale_by_t2": True}
    where, weights = ARRAYS["where"], ARRAYS["weights"]

    def ours(x):
        return D.evaluate(term, x, ARRAYS["teacher"], where=where, **options)

    def theirs(x):
        return divergences.evaluate(term, x, ARRAYS["teacher"], where=where[..., None], **options)

    def both(loss):
        def summed(x):
            return jnp.sum(weights * loss(x))

        return jax.jit(lambda x: (loss(x), jax.grad(summed)(x)))(student)

    given, wanted = both(ours), both(theirs)
    plain.assert_close(given, wanted)


def test_masked_classes_equal_the_losses():
    classes = jnp.arange(plain.VOCABULARY) < 11
    student = plain.head(ARRAYS, 1.0, None, False)
    given = D.evaluate(divergences.kl_term, student, ARRAYS["teacher"], classes=classes)
    wanted = divergences.kl_divergence(student, ARRAYS["teacher"], where=classes)
    plain.assert_close(given, wanted)


def test_options_may_be_arrays_per_token():
    values = jnp.linspace(0.5, 2.0, 21).reshape(plain.TOKENS)
    names = ("temperature", "label_weight", "divergence_weight")
    student, teacher = D.Linear(ARRAYS["hidden"], ARRAYS["kernel"]), ARRAYS["teacher"]
    evaluate = functools.partial(D.evaluate, divergences.kl_term, labels=ARRAYS["labels"])
    given = evaluate(student, teacher, chunk_size=4, **dict.fromkeys(names, values))
    for at in ((0, 0), (1, 3), (2, 6)):
        wanted = evaluate(student, teacher, **dict.fromkeys(names, float(values[at])))
        plain.assert_close(given[at], wanted[at])


def test_labels_alone_need_no_teacher():
    student = D.Linear(ARRAYS["hidden"], ARRAYS["kernel"])
    given = D.evaluate(divergences.kl_term, student, None, labels=ARRAYS["labels"], chunk_size=4)
    logits = plain.head(ARRAYS, 1.0, None, False)
    wanted = plain.loss(
        plain.home_made, logits, D.Dense(logits), labels=ARRAYS["labels"], divergence_weight=0
    )
    plain.assert_close(given, wanted)


def test_the_weighted_sum_scales_with_its_cotangent_and_gives_the_teacher_no_gradient():
    def total(own, teacher):
        return D.weighted_sum(divergences.kl_term)(
            D.Linear(own["hidden"], own["kernel"]),
            D.Dense(teacher),
            ARRAYS["weights"],
            chunk_size=8,
        )

    own = {name: ARRAYS[name] for name in BY}
    gradient = jax.grad(total)(own, ARRAYS["teacher"])
    triple = jax.grad(lambda *x: 3 * total(*x))(own, ARRAYS["teacher"])
    plain.assert_close(triple, jax.tree.map(lambda x: 3 * x, gradient))
    assert not np.any(jax.grad(total, argnums=1)(own, ARRAYS["teacher"]))


@pytest.mark.parametrize("form", ["per_token", "weighted_sum"])
def test_bfloat16_stays_within_its_rounding(form):
    """The gradient by the logits and the answer are rounded: 2⁻⁷ of an array's largest entry."""
    low = {name: ARRAYS[name].astype(jnp.bfloat16) for name in ("hidden", "kernel")}

    def total(own):
        student, teacher = D.Linear(own["hidden"], own["kernel"]), D.Dense(ARRAYS["teacher"])
        if form == "weighted_sum":
            weigh = D.weighted_sum(divergences.kl_term)
            return weigh(student, teacher, ARRAYS["weights"], chunk_size=8)
        losses = D.divergence(divergences.kl_term)(student, teacher, chunk_size=8)
        return jnp.sum(ARRAYS["weights"] * losses)

    value, gradient = jax.value_and_grad(total)(low)
    exact_value, exact = jax.value_and_grad(total)(
        {name: x.astype(jnp.float32) for name, x in low.items()}
    )
    np.testing.assert_allclose(value, exact_value, rtol=1e-6)
    for name, x in gradient.items():
        assert x.dtype == jnp.bfloat16
        error = jnp.abs(x.astype(jnp.float32) - exact[name]).max()
        assert error <= 2**-7 * jnp.abs(exact[name]).max()


def test_a_traced_parameter_of_a_term_is_bound_by_keyword():
    def total(beta, hidden):
        term = functools.partial(divergences.generalized_js_term, beta=beta)
        student = D.Linear(hidden, ARRAYS["kernel"])
        return jnp.sum(D.evaluate(term, student, ARRAYS["teacher"], chunk_size=8))

    traced = jax.grad(jax.jit(total), argnums=1)(jnp.float32(0.3), ARRAYS["hidden"])
    plain.assert_close(traced, jax.grad(lambda x: total(0.3, x))(ARRAYS["hidden"]))
