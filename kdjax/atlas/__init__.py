"""The atlas: all methods of a family on one data set, under one protocol.

    python -m kdjax.atlas --family=logits --dataset=fashion_mnist --workdir=/tmp/atlas

One teacher, one student, one budget and the same seeds for all; each method has a small and equal
budget to choose its learning rate. What comes out is files, and the page is made of them.
"""

from kdjax.atlas.family import Claim, Family, Method, load_family
from kdjax.atlas.page import write_page
from kdjax.atlas.protocol import Protocol, load_protocol
from kdjax.atlas.runs import run
from kdjax.atlas.summary import summarize
from kdjax.atlas.verdicts import Difference, paired_difference, verdict

__all__ = [
    "Claim",
    "Difference",
    "Family",
    "Method",
    "Protocol",
    "load_family",
    "load_protocol",
    "paired_difference",
    "run",
    "summarize",
    "verdict",
    "write_page",
]
