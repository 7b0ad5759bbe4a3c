"""Networks as models: adapters for flax and plain functions, taps, combinators and a small zoo."""

from kdjax.models.callables import as_model, from_batch, from_callable
from kdjax.models.combine import cast, ensemble, rename
from kdjax.models.heads import (
    label_assisted,
    masked,
    with_classifier,
    with_heads,
    with_signals,
)
from kdjax.models.linen import from_linen
from kdjax.models.listing import list_taps
from kdjax.models.nnx import from_nnx
from kdjax.models.taps import tapped
from kdjax.models.zoo import MLP, ConvNet, Decoder, Mixer, ResNet, ViT, build, count_parameters

__all__ = [
    "MLP",
    "ConvNet",
    "Decoder",
    "Mixer",
    "ResNet",
    "ViT",
    "as_model",
    "build",
    "cast",
    "count_parameters",
    "ensemble",
    "from_batch",
    "from_callable",
    "from_linen",
    "from_nnx",
    "label_assisted",
    "list_taps",
    "masked",
    "rename",
    "tapped",
    "with_classifier",
    "with_heads",
    "with_signals",
]
