"""HARD: an augmentor looks for shifts on which teacher and student disagree.

    python -m kdjax.train --config=configs/digits/hard.py --workdir=/tmp/hard

Compared: labels alone, kd on plain digits, kd on digits shifted at random, and hard, with shifts of
at most 1 pixel; the teacher was trained on shifted digits.
Claim: hard augmentations transfer what the teacher knows of shifts better than kd
(arXiv:2305.14890); measured here on plain test digits.

Outcome: labels 89.1 ± 0.6, kd 93.2 ± 1.3, shifted 89.7 ± 0.3, hard 92.8 ± 1.7 (3 seeds; teacher
99.2). Better than shifts at random by 3.1 ± 1.1 points, not than kd on plain digits (-0.5 ± 0.4):
on plain test digits, shifts are no help to a student of this size.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Hard augmentations on digits"
    config.teacher.augment = {"random_shift": {"max_shift": 1}}
    shifted = {"name": "kd", "augment": {"random_shift": {"max_shift": 1}}}
    config.baselines.shifted = shifted
    config.objective = {"algorithm": "hard", "augmentor_learning_rate": 3e-3}
    return config
