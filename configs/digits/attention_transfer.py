"""Attention transfer between two convolutional networks.

    python -m kdjax.train --config=configs/digits/attention_transfer.py --workdir=/tmp/attention

Compared: labels alone, kd, labels with attention transfer of both stages; all on small
convolutional networks.
Claim: where the teacher looks helps the student beyond labels (arXiv:1612.03928).

Outcome: labels 86.0 ± 1.0, kd 95.0 ± 0.3, attention_transfer 87.0 ± 1.8 (3 seeds; teacher 98.6).
Not distinguishable from labels alone (+1.0 ± 1.5): the claim does not show here. The usual weight
1000, on a student of 4 and 8 channels, did harm: 50.7 ± 8.0 against 81.5 ± 0.9.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Attention transfer on digits"
    config.teacher.model = {"name": "convnet", "widths": (32, 64)}
    config.teacher.augment = {}
    config.teacher.epochs = 20.0
    config.student.model = {"name": "convnet", "widths": (8, 16)}
    config.student.epochs = 200.0
    config.objective = {
        "name": "attention_transfer",
        "student": ("taps/stage_0", "taps/stage_1"),
        "teacher": ("taps/stage_0", "taps/stage_1"),
        "weight": 100.0,
        "label_weight": 1.0,
    }
    return config
