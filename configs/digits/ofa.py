"""One-for-all distillation from a mixer to a perceptron, which have only their classes in common.

    python -m kdjax.train --config=configs/digits/ofa.py --workdir=/tmp/ofa

Compared: labels alone, kd, ofa (gamma 1.5) on the last logits; `ofa_exits.py` adds the paper's exit
branches.
Claim: a boosted target is better than kd where the architectures differ (arXiv:2310.19444).

Outcome: labels 89.1 ± 0.6, kd 92.2 ± 1.0, ofa 90.3 ± 0.6 (3 seeds; teacher 98.9). Better than
labels alone by 1.2 ± 0.5 points, 1.9 behind kd: the claim did not come out here.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "One-for-all distillation on digits"
    config.teacher.model = {"name": "mixer", "patch_size": 2, "width": 64, "depth": 2}
    config.objective = {"name": "ofa", "gamma": 1.5, "temperature": 1.0, "label_weight": 1.0}
    return config
