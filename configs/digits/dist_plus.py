"""DIST+: correlations of logits, and of features beside them, between two convolutional networks.

    python -m kdjax.train --config=configs/digits/dist_plus.py --workdir=/tmp/dist_plus

The last stages of both networks are alike in shape; of the first ones the teacher's has 32
channels, the student's 4. Compared: labels alone, kd, dist, and dist_plus with the features of the
last stage.
Claim: correlations of features add to those of logits (DIST+, which also adapts the teacher, as is
not done here).

Outcome: labels 83.6 ± 1.8, kd 88.0 ± 2.7, dist 92.3 ± 0.4, dist_plus 92.5 ± 0.6 (3 seeds; teacher
97.5). Correlations of logits are better than labels by 8.7 ± 0.8 points; those of features add
nothing to them (0.2 ± 0.3): not reproduced in miniature. Students by correlations are far too
unsure (ECE 78).
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "DIST+ on digits"
    config.teacher.model = {"name": "convnet", "widths": (32, 32)}
    config.teacher.augment = {}
    config.teacher.epochs = 20.0
    config.student.model = {"name": "convnet", "widths": (4, 32)}
    config.student.epochs = 60.0
    options = {"beta": 2.0, "gamma": 2.0, "temperature": 4.0, "label_weight": 1.0}
    config.baselines.dist = {"name": "dist", **options}
    signals = ("logits", "taps/stage_1")
    config.objective = {"name": "dist_plus", "student": signals, "teacher": signals, **options}
    return config
