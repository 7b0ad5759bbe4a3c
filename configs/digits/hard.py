"""HARD: an augmentor looks for shifts on which teacher and student disagree.

    python -m kdjax.train --config=configs/digits/hard.py --workdir=/tmp/hard

Test digits are shifted by up to 1 pixel, and so are those that the teacher was trained on; the
student's are not. Compared: labels alone, kd on the digits as they are, kd on digits shifted at
random, and hard, with shifts of at most 1 pixel.
Claim: hard augmentations transfer what the teacher knows of shifts, plain kd does not
(arXiv:2305.14890).

Outcome: labels 35.2 ± 1.6, kd 37.4 ± 2.4, shifted 52.1 ± 0.7, hard 57.5 ± 1.0 (3 seeds; teacher
78.9). The claim holds: hard is better than kd by 20.1 ± 1.8 points, and than shifts at random by
5.4 ± 0.5. On test digits as they are, shifts are no help to a student of this size: there labels
make 89.1 ± 0.6, kd 93.2 ± 1.3, shifted 89.7 ± 0.3 and hard 92.8 ± 1.7, with shifts of up to 2
pixels for the last.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Hard augmentations on shifted digits"
    config.data.test_shift = 1
    config.teacher.augment = {"random_shift": {"max_shift": 1}}
    shifted = {"name": "kd", "augment": {"random_shift": {"max_shift": 1}}}
    config.baselines.shifted = shifted
    config.objective = {"algorithm": "hard", "max_shift": 1.0, "augmentor_learning_rate": 3e-3}
    return config
