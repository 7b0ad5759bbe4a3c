"""Dual-head distillation: a second head learns what would harm the first one.

    python -m kdjax.train --config=configs/digits/dual_head.py --workdir=/tmp/dual_head

Compared: labels alone, kd, the same loss (binary_kl_norm, beside the labels) on a single head, on
two heads, and on two heads with gradients aligned (dual_head_kd).
Claim: the loss harms a single head, and helps beside it (arXiv:2411.08937).

Outcome: not run yet.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Dual-head distillation on digits"
    config.baselines.one_head = {"name": "binary_kl_norm", "label_weight": 1.0}
    two_heads = {"name": "mlp", "features": (32,), "heads": {"kd_logits": 10}}
    config.baselines.not_aligned = {"algorithm": "dual_head_kd", "align": False, "model": two_heads}
    config.objective = {"algorithm": "dual_head_kd", "model": two_heads}
    return config
