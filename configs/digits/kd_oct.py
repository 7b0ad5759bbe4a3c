"""KD-OCT: a focal teacher with averaged weights, and a student of a thirtieth of its size.

    python -m kdjax.train --config=configs/digits/kd_oct.py --workdir=/tmp/kd_oct

All 1,437 digits are the teachers' and the student's. Compared: labels alone; teachers with the
labels (plain_teacher), with the focal loss (focal_teacher), and with it and the mean of the weights
of the last quarter of the steps (swa_teacher); and a student of each, with 0.3 of the labels and
0.7 of the teacher.
Claim: the student comes within a point of a teacher of ten times its size or more (KD-OCT, there on
unbalanced classes; here they are balanced).

Outcome: labels 97.3 ± 0.2; plain_teacher 97.8 ± 1.0, focal_teacher 97.6 ± 0.9, swa_teacher 97.6 ±
0.9; by_plain 97.2 ± 0.3, by_focal 96.9 ± 0.4, by_swa 96.9 ± 0.3 (3 seeds). The student is within a
point of its teacher (-0.6 ± 0.4), but so it is with labels alone, to which no teacher adds anything
here (by_swa -0.4 ± 0.2). Averaging weights after a rate that fell to 0 changes no prediction; the
focal teacher has the lower NLL, 0.071 against 0.094.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "A focal teacher with averaged weights on digits"
    config.data.train = "train"
    config.student.epochs = 60.0
    network = {"name": "mlp", "features": (256, 256)}
    focal = {"name": "focal", "model": network}
    taught = {"name": "kd", "temperature": 4.0, "weight": 0.7, "label_weight": 0.3}
    config.baselines = {
        "labels": {"name": "cross_entropy"},
        "plain_teacher": {"name": "cross_entropy", "model": network},
        "focal_teacher": focal,
        "swa_teacher": {**focal, "averaged": 0.25},
        "by_plain": {**taught, "taught_by": "plain_teacher"},
        "by_focal": {**taught, "taught_by": "focal_teacher"},
    }
    config.objective = {**taught, "taught_by": "swa_teacher"}
    config.main = "by_swa"
    return config
