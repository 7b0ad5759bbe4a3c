"""One-for-all distillation with exits, from a mixer to a small convolutional network.

    python -m kdjax.train --config=configs/digits/ofa_exits.py --workdir=/tmp/ofa_exits

Compared: labels alone, kd, regression of the teacher's embedding through a projector (features),
ofa on the last logits alone, and with exits after both stages, of two and one block of
depthwise-separable convolutions, at gamma 1 (no boost) and 1.5.
Claim: exits are at least as good as a comparison of features, and better than none, where the
architectures differ (arXiv:2310.19444).

Outcome: labels 83.2 ± 1.1, kd 88.2 ± 1.2, features 85.9 ± 1.7, ofa 83.8 ± 1.3, exits_not_boosted
85.0 ± 0.5, exits 84.2 ± 0.7 (3 seeds; teacher 98.9). Not reproduced in miniature: exits are not
told from features (-1.8 ± 1.4 points, without a boost -0.9 ± 0.8) nor from none (0.4 ± 0.8), and
the boost does rather harm (-0.8 ± 0.6). Plain kd, at temperature 4 where ofa is at 1, is better
than all of them, by 4.1 ± 0.8 points over exits.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "One-for-all distillation with exits on digits"
    config.teacher.model = {"name": "mixer", "patch_size": 2, "width": 64, "depth": 2}
    config.student.model = {"name": "convnet", "widths": (8, 16)}
    config.student.epochs = 60.0
    exits = {
        "name": "ofa_exits",
        "features": ("taps/stage_0", "taps/stage_1"),
        "blocks": (2, 1),
        "label_weight": 1.0,
    }
    config.baselines.features = {
        "name": "embedding_regression",
        "student": "embedding",
        "teacher": "embedding",
        "projector": "linear",
        "label_weight": 1.0,
    }
    config.baselines.ofa = {"name": "ofa", "gamma": 1.5, "label_weight": 1.0}
    config.baselines.exits_not_boosted = {**exits, "gamma": 1.0}
    config.objective = {**exits, "gamma": 1.5}
    config.main = "exits"
    return config
