"""Gradients of one phase, the same however a batch is split over micro-batches and devices.

Losses come as sums and counts. For objectives that look at each example alone, counts are added up
first (which costs nothing: the compiler drops all that they do not depend on), and gradients of
the sums over the total counts are added. For objectives in which examples meet, the signals of all
micro-batches are collected, the objective is differentiated once by the signals of the whole batch,
and that gradient is carried back through each micro-batch (Gao et al., arXiv:2101.06983).

Where a player has an anchor, the loss has two parts, and so has everything that is differentiated:
the gradients of both are added up as above, and put together at the very end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.microbatching import AccumulationType, microbatch

from kdjax.algorithms import players
from kdjax.algorithms.alignment import gradient_align
from kdjax.base import Batch, Key, ObjectiveVariables, Signals, Term, TrainState, Variables
from kdjax.objectives.compose import total_loss

SUM, MEAN, CONCAT = AccumulationType.SUM, AccumulationType.MEAN, AccumulationType.CONCAT


class Result(NamedTuple):
    """Of one phase; each field is a mapping by player."""

    grads: dict[str, Any]
    metrics: dict[str, dict[str, jax.Array]]
    model_states: dict[str, Variables]
    objective_states: dict[str, Any]


class Phase(NamedTuple):
    """The players of one phase and what they start from."""

    setting: players.Setting
    names: tuple[str, ...]
    state: TrainState
    frozen: Mapping[str, Variables]
    axis_name: str | None

    @property
    def params(self) -> dict[str, Any]:
        """What is differentiated."""
        return {name: self.state.players[name].params for name in self.names}

    @property
    def coupled(self) -> bool:
        """Whether some player's objective needs the whole batch at once."""
        return any(
            self.setting.players[name].objective.coupled
            or bool(jax.tree.leaves(self.state.players[name].objective_state))
            for name in self.names
        )

    @property
    def anchors(self) -> dict[str, str]:
        """The terms that other terms may not work against, by player."""
        named = {name: self.setting.players[name].anchor for name in self.names}
        return {name: anchor for name, anchor in named.items() if anchor is not None}

    def slope(self, loss: Callable[..., Any], *arguments: Any) -> tuple[tuple[Any, ...], Any]:
        """Gradients by all arguments, and auxiliary output; in two parts, if the loss is."""
        if not self.anchors:
            return jax.grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)
        _, back, auxiliary = jax.vjp(loss, *arguments, has_aux=True)
        parts = [back(part) for part in jnp.eye(2)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts), auxiliary

    def forward(
        self, params: Any, batch: Batch, key: Key
    ) -> tuple[dict[str, Signals], dict[str, Variables]]:
        """Signals of all roles, and the collections that the phase's players changed."""
        sources = players.sources_of(self.state, self.frozen, params)
        signals, changed = players.forward_all(
            self.setting,
            sources,
            batch,
            players.local_key(key, self.axis_name),
            train=frozenset(self.names),
        )
        return signals, {name: changed[name] for name in self.names if name in changed}

    def objectives(
        self,
        params: Any,
        signals: Mapping[str, Signals],
        batch: Batch,
        key: Key,
        live: frozenset[str] = frozenset(),
    ) -> tuple[dict[str, dict[str, Term]], dict[str, Any]]:
        """Terms and next objective state of each player of the phase."""
        sources = players.sources_of(self.state, self.frozen, params)
        # Where examples meet, all devices evaluate the same objective, with the same key.
        key = key if self.coupled else players.local_key(key, self.axis_name)
        terms, states = {}, {}
        for name in self.names:
            own = ObjectiveVariables(
                params[name]["objective"], self.state.players[name].objective_state
            )
            terms[name], states[name] = players.evaluate_objective(
                name, self.setting, sources, own, signals, batch, self.state.step, key, live
            )
        return terms, jax.lax.stop_gradient(states)

    def add(self, tree: Any) -> Any:
        """Sum over devices."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def average(self, tree: Any) -> Any:
        """Mean over devices."""
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def gather(self, tree: Any) -> Any:
        """All devices' examples, in the order of the devices; differentiable."""
        if self.axis_name is None:
            return tree

        def leaf(x: Any) -> Any:
            return jax.lax.all_gather(x, self.axis_name, tiled=True) if jnp.ndim(x) else x

        return jax.tree.map(leaf, tree)


def phase_gradients(phase: Phase, batch: Batch, key: Key, microbatches: int = 1) -> Result:
    """Gradients, metrics and next states of the players of a phase."""
    result = _phase_gradients(phase, batch, key, microbatches)
    return result._replace(grads=_aligned(phase.anchors, result.grads))


def _phase_gradients(phase: Phase, batch: Batch, key: Key, microbatches: int) -> Result:
    if microbatches == 1:
        return _whole(phase, batch, key)
    size = jax.tree.leaves(dict(batch))[0].shape[0]
    if size % microbatches:
        raise ValueError(f"microbatches={microbatches} does not divide the batch of {size}")
    loop = _Loop(key, size // microbatches, size)
    return (_cached if phase.coupled else _summed)(phase, batch, loop)


class _Loop(NamedTuple):
    """A loop over micro-batches."""

    key: Key
    micro_size: int
    size: int

    def __call__(self, function: Callable[..., Any], how: Any, *arrays: Any) -> Any:
        """Accumulates `function(key, *slices)` over slices of arrays along their leading axis."""

        def part(rows, *slices):
            return function(jax.random.fold_in(self.key, rows[0]), *slices)

        positions = tuple(range(len(arrays) + 1))
        return microbatch(part, positions, self.micro_size, how)(jnp.arange(self.size), *arrays)


def _whole(phase: Phase, batch: Batch, key: Key) -> Result:
    """All examples of the batch at once."""

    def loss(params):
        signals, model_states = phase.forward(params, batch, key)
        return _loss_of_signals(phase, params, signals, model_states, batch, key)

    (grads,), (metrics, model_states, states) = phase.slope(loss, phase.params)
    return Result(phase.add(grads), metrics, phase.average(model_states), states)


def _summed(phase: Phase, batch: Batch, loop: _Loop) -> Result:
    """Each example for itself: sums of gradients."""

    def terms_of(params, batch, key):
        signals, model_states = phase.forward(params, batch, key)
        return phase.objectives(params, signals, batch, key)[0], model_states

    def count(key, batch):
        return _counts(terms_of(phase.params, batch, key)[0])

    counts = phase.add(loop(count, SUM, batch))

    def gradient(key, batch):
        def loss(params):
            terms, model_states = terms_of(params, batch, key)
            total, metrics = _total(terms, counts, phase.anchors)
            return total, (metrics, model_states)

        (grads,), auxiliary = phase.slope(loss, phase.params)
        return grads, auxiliary

    grads, (metrics, model_states) = loop(gradient, (SUM, (SUM, MEAN)), batch)
    states = {name: phase.state.players[name].objective_state for name in phase.names}
    return Result(phase.add(grads), phase.add(metrics), phase.average(model_states), states)


def _cached(phase: Phase, batch: Batch, loop: _Loop) -> Result:
    """Examples that meet: signals of the whole batch, their gradient, back through the parts."""
    params = phase.params

    def collect(key, batch):
        return phase.forward(params, batch, key)

    shapes = jax.eval_shape(collect, loop.key, batch)
    how = (jax.tree.map(lambda leaf: CONCAT if leaf.ndim else MEAN, shapes[0]), MEAN)
    signals, model_states = loop(collect, how, batch)
    own = {name: signals[name] for name in phase.names if name in signals}
    own, others = _split_floating(own)

    def loss(params, own):
        full = {**signals, **_merge(own, others)}
        return _loss_of_signals(phase, params, full, {}, batch, loop.key)

    (direct, cotangents), (metrics, _, states) = phase.slope(loss, params, own)

    def back(key, batch, cotangents):
        def projected(params):
            now, _ = _split_floating(
                {name: phase.forward(params, batch, key)[0][name] for name in cotangents}
            )
            products = jax.tree.map(lambda x, g: jnp.sum(x * g), now, cotangents)
            return jax.tree.reduce(jnp.add, products, jnp.zeros(()))

        return jax.grad(projected)(params)

    if phase.anchors:
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i], cotangents) for i in range(2)]
        through = [loop(back, SUM, batch, part) for part in parts]
        through = jax.tree.map(lambda *leaves: jnp.stack(leaves), *through)
    else:
        through = loop(back, SUM, batch, cotangents)
    grads = phase.add(jax.tree.map(jnp.add, direct, through))
    return Result(grads, metrics, phase.average(model_states), states)


def _loss_of_signals(phase, params, signals, model_states, batch, key):
    """The phase's loss of the batch; of the batches of all devices where examples meet."""
    if phase.coupled:
        signals, batch = phase.gather(signals), phase.gather(batch)
    terms, states = phase.objectives(params, signals, batch, key)
    counts = phase.add(jax.lax.stop_gradient(_counts(terms)))
    total, metrics = _total(terms, counts, phase.anchors)
    return total, (phase.add(metrics), model_states, states)


def _is_term(node: Any) -> bool:
    return isinstance(node, Term)


def _counts(terms: Any) -> Any:
    return jax.tree.map(lambda term: term.count, terms, is_leaf=_is_term)


def _total(
    terms: Any, counts: Any, anchors: Mapping[str, str]
) -> tuple[jax.Array, dict[str, dict[str, jax.Array]]]:
    """The loss of all players together (in two parts if some have anchors), and the metrics."""
    total, metrics = jnp.zeros((), jnp.float32), {}
    for name, own in terms.items():
        loss = total_loss(own, counts[name])
        means = {key: term._replace(count=counts[name][key]).mean for key, term in own.items()}
        metrics[name] = jax.lax.stop_gradient({**means, "loss": loss})
        total += _in_parts(own, counts[name], anchors.get(name)) if anchors else loss
    return total, metrics


def _in_parts(terms: Mapping[str, Term], counts: Any, anchor: str | None) -> jax.Array:
    """What the anchor adds to the loss, and what all others do."""
    if anchor is not None and anchor not in terms:
        raise ValueError(f"anchor is {anchor!r}, the objective has the terms {sorted(terms)}")
    others = {name: term for name, term in terms.items() if name != anchor}
    first = {} if anchor is None else {anchor: terms[anchor]}
    return jnp.stack([total_loss(first, counts), total_loss(others, counts)])


def _aligned(anchors: Mapping[str, str], grads: dict[str, Any]) -> dict[str, Any]:
    """One gradient per player: both parts put together."""
    if not anchors:
        return grads
    whole = {}
    for name, own in grads.items():
        first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], own) for i in range(2))
        whole[name] = gradient_align(first, second) if name in anchors else second
    return whole


def _split_floating(tree: Any) -> tuple[Any, Any]:
    """Floating leaves and the others, each with `None` in place of the rest."""
    floating = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, tree)
    others = jax.tree.map(lambda x: None if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)
    return floating, others


def _merge(floating: Any, others: Any) -> Any:
    return jax.tree.map(
        lambda a, b: b if a is None else a, floating, others, is_leaf=lambda x: x is None
    )
