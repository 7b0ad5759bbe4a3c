"""Operations of matrix products, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from kdjax import parallel
from kdjax.plan import matrix_flops

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


def count(function, *arguments):
    return matrix_flops(jax.make_jaxpr(function)(*arguments))


def test_a_product():
    assert count(jnp.matmul, A, B) == 2 * 3 * 4 * 5


def test_a_batch_of_products():
    assert count(jnp.matmul, jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * 2 * 3 * 4 * 5


def test_elementwise_work_is_not_counted():
    assert count(lambda a: jnp.sum(jnp.exp(a) * a), A) == 0


def test_a_gradient_costs_two_products_more():
    def loss(a, b):
        return jnp.sum(jnp.square(a @ b))

    assert count(jax.grad(loss, (0, 1)), A, B) == 3 * 2 * 3 * 4 * 5


def test_what_is_computed_again_is_counted_again():
    def loss(a, b):
        return jnp.sum(jnp.square(jnp.sin(a @ b) @ b.T))

    once = count(jax.grad(loss), A, B)
    assert count(jax.grad(jax.checkpoint(loss)), A, B) == once + 2 * (2 * 3 * 4 * 5)


@pytest.mark.parametrize("length", [1, 6])
def test_a_loop_counts_as_often_as_it_runs(length):
    def loop(a):
        return jax.lax.scan(lambda a, _: (a @ a, None), a, length=length)[0]

    assert count(loop, jnp.ones((3, 3))) == length * 2 * 3**3


def test_the_more_costly_branch():
    def either(choice, a):
        return jax.lax.cond(choice, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert count(either, True, jnp.ones((3, 3))) == 2 * 2 * 3**3


def test_a_convolution():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found = count(convolve, jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16)))
    assert found == 2 * (2 * 6 * 6 * 16) * (3 * 3 * 3)


def test_a_convolution_in_groups():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    found = count(convolve, jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 8)))
    assert found == 2 * (2 * 6 * 6 * 8) * (3 * 3)


def test_what_runs_per_device_counts_for_all():
    mesh = parallel.make_mesh(2, 2, 2)
    run = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    # Over fsdp and tensor the same product is made four times.
    assert count(run, jnp.ones((4, 3)), jnp.ones((3, 5))) == 4 * (2 * 4 * 3 * 5)
