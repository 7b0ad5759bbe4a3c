"""What of a teacher's signals is kept: whole arrays, the most likely classes, or random ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.base import Batch, Signals
from kdjax.data.repeatable import example_keys
from kdjax.distributions import Samples, Sparse, sample, top_k


@dataclasses.dataclass(frozen=True)
class KeepSignals:
    """Keeps signals as they are, `logits` or an `embedding` for instance.

    Args:
      names: of the signals.
      dtype: what they are stored as, `'float16'`, `'bfloat16'` or `'float32'`. A number beyond the
        type's range becomes its largest.

    Example:
      >>> import jax.numpy as jnp
      >>> KeepSignals(('embedding',))({'embedding': jnp.ones((2, 3))}, {})['embedding'].dtype
      dtype('float16')
    """

    names: tuple[str, ...] = ("logits",)
    dtype: str = "float16"

    def __post_init__(self):
        if isinstance(self.names, str):
            raise TypeError(f"names: got {self.names!r}, wanted a tuple of names")

    def __call__(self, signals: Signals, batch: Batch) -> dict[str, Any]:
        """The signals, in the wanted type."""
        return {name: _cast(signal_of(signals, name), self.dtype) for name in self.names}


@dataclasses.dataclass(frozen=True)
class KeepTopK:
    """Keeps the `k` most likely classes, their log-probabilities, and the mass of all others.

    Args:
      k: number of classes, at most the vocabulary.
      temperature: divides the logits first. A sparse teacher is best used at the temperature that
        it was stored at.
      dtype: of the log-probabilities.
      name: of the signal.

    Example:
      >>> import jax.numpy as jnp
      >>> KeepTopK(2)({'logits': jnp.array([[0.0, 3.0, 1.0]])}, {})['logits'].ids
      Array([[1, 2]], dtype=int16)
    """

    k: int
    temperature: float = 1.0
    dtype: str = "float16"
    name: str = "logits"

    def __call__(self, signals: Signals, batch: Batch) -> dict[str, Any]:
        """A `Sparse`."""
        logits = signal_of(signals, self.name)
        kept = top_k(logits, self.k, temperature=self.temperature)
        log_probs, log_tail = (_cast(x, self.dtype) for x in (kept.log_probs, kept.log_tail))
        return {self.name: Sparse(_narrow(kept.ids, logits), log_probs, log_tail)}


@dataclasses.dataclass(frozen=True)
class KeepSamples:
    """Keeps `k` random classes with weights whose expectation is the teacher's distribution.

    The draw depends on the seed, the example and the view, never on the batch.

    Args:
      k: number of draws.
      seed: of the draws.
      proposal_exponent: as in `kdjax.distributions.sample`.
      temperature: divides the logits first.
      dtype: of weights and log-probabilities.
      name: of the signal.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = {'id': jnp.array([5])}
      >>> kept = KeepSamples(4)({'logits': jnp.array([[0.0, 3.0, 1.0]])}, batch)['logits']
      >>> kept.weights
      Array([[0.25, 0.25, 0.25, 0.25]], dtype=float16)

    References:
      Anshumann et al., Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs,
      arXiv:2503.16870.
    """

    k: int
    seed: int = 0
    proposal_exponent: float = 1.0
    temperature: float = 1.0
    dtype: str = "float16"
    name: str = "logits"

    def __call__(self, signals: Signals, batch: Batch) -> dict[str, Any]:
        """A `Samples`."""
        logits = signal_of(signals, self.name)
        options = {"proposal_exponent": self.proposal_exponent, "temperature": self.temperature}
        draw = jax.vmap(lambda key, row: sample(key, row, self.k, **options))
        drawn = draw(example_keys(self.seed, batch), logits)
        weights, log_probs = (_cast(x, self.dtype) for x in (drawn.weights, drawn.log_probs))
        return {self.name: Samples(_narrow(drawn.ids, logits), weights, log_probs)}


def signal_of(signals: Signals, name: str) -> Array:
    """A signal of the teacher; `ValueError` with those it gives if there is none of that name."""
    if name not in signals:
        raise ValueError(f"teacher: gives no signal {name!r}; it gives {sorted(signals)}")
    return signals[name]


def _cast(values: Array, dtype: str) -> Array:
    # Without the limits the log of an impossible class, -1e9, would become -inf in float16. NaN
    # stays NaN, which the writer refuses.
    limits = jnp.finfo(dtype)
    wide = jnp.asarray(values, jnp.promote_types(values.dtype, jnp.float32))
    return jnp.clip(wide, float(limits.min), float(limits.max)).astype(dtype)


def _narrow(ids: Array, logits: Array) -> Array:
    return ids.astype(jnp.int16 if logits.shape[-1] <= 2**15 else jnp.int32)
