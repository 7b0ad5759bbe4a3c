"""Goldens: numbers of the reference implementations, and the public kdjax functions that give them.

A golden is one `.npz` file, `<family>/<name>.npz`: inputs `in.*`, outputs `out.*`, gradients of
`out.loss` by inputs `grad.*`, and `meta`, a JSON string with the source and its hyper-parameters.
Each family has a module in `families` with a dict `ADAPTERS` from name to adapter; objectives with
state have one of their own.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping

import numpy as np

# The families are found from wherever this file is imported.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from families import features, language, logits, objectives, responses, topk

FAMILIES = {"features": features, "language": language, "logits": logits}
ADAPTERS = (
    {
        f"{family}/{name}": adapter
        for family, module in FAMILIES.items()
        for name, adapter in module.ADAPTERS.items()
    }
    | {f"language/{name}": adapter for name, adapter in topk.ADAPTERS.items()}
    | {f"logits/{name}": adapter for name, adapter in responses.ADAPTERS.items()}
    | objectives.ADAPTERS
)


def evaluate(name: str, inputs: Mapping[str, np.ndarray], meta: dict) -> dict[str, np.ndarray]:
    """Loss, gradients and further outputs of a golden, computed by kdjax.

    Args:
      name: `'family/name'`.
      inputs: the golden's inputs by name, without `in.`.
      meta: its metadata; `meta['hyper']` are the options.

    Returns:
      `loss`, `grad.<input>` for each gradient, and other outputs under the golden's names.

    Raises:
      KeyError: if there is no adapter for the golden.
    """
    if name not in ADAPTERS:
        raise KeyError(f"no adapter for golden {name!r}")
    return ADAPTERS[name](inputs, meta["hyper"])
