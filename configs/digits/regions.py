"""FerKD: crops of digits, of which the doubtful ones are calibrated or left out.

    python -m kdjax.train --config=configs/digits/regions.py --workdir=/tmp/regions

Compared on random crops (at least a quarter of the image, resized): labels alone, the soft
cross-entropy with the teacher on each crop (FKD), and the same with doubtful crops calibrated
(fer_kd).
Claim: calibrated regions are better than soft labels alone (arXiv:2312.17473).

Outcome: labels 88.9 ± 0.3, soft_labels 91.9 ± 1.0, fer_kd 91.2 ± 1.9 (3 seeds; teacher 97.8). Soft
labels of crops are better than labels by 3.1 ± 0.6 points; calibrating them does not add to that
(-0.7 ± 0.6): not reproduced in miniature.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Soft labels of regions on digits"
    config.teacher.augment = {"random_resized_crop": {"min_area": 0.25}}
    config.student.augment = {"random_resized_crop": {"min_area": 0.25}}
    config.baselines.soft_labels = {"name": "soft_cross_entropy"}
    config.objective = {"name": "fer_kd", "discard": 0.3, "soften": 0.5}
    return config
