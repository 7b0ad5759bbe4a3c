"""Teachers made to teach: focal loss, conditional mutual information, labels as input.

    python -m kdjax.train --config=configs/digits/teacher_training.py --workdir=/tmp/teachers

All teachers learn from the student's 287 digits. Compared: labels alone, and kd from four teachers:
trained on the labels, with the focal loss (KD-OCT), fine-tuned for conditional mutual information
(MCMI), and one who also sees the label with noise (LAD). The last one is no classifier: what the
report says of it counts the test labels it is shown.
Claims: a teacher with more information on the classes (arXiv:2401.08732), or one assisted by labels
(arXiv:2407.13254), has a better student.

Outcome: labels 89.1 ± 0.6; plain_teacher 88.9 ± 0.7, focal_teacher 88.0 ± 0.7, mcmi_teacher 88.9 ±
0.6, lad_teacher 89.6 ± 0.7 (with noisy labels as input); by_plain 88.7 ± 0.2, by_focal 88.6 ± 0.7,
by_mcmi 89.0 ± 0.9, by_lad 88.1 ± 0.5 (3 seeds). Not reproduced in miniature: against the plain
teacher's student mcmi makes +0.3 ± 0.6 and lad -0.6 ± 0.2 points. The focal teacher's student has
the lowest NLL, 0.41 against 0.75.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Teachers made to teach, on digits"
    network = {"name": "mlp", "features": (256, 256)}
    taught = {"name": "kd", "temperature": 4.0, "weight": 0.7, "label_weight": 0.3}
    config.baselines = {
        "labels": {"name": "cross_entropy"},
        "plain_teacher": {"name": "cross_entropy", "model": network},
        "focal_teacher": {"name": "focal", "model": network},
        "lad_teacher": {"name": "cross_entropy", "model": {**network, "label_noise": 0.5}},
        "mcmi_teacher": {
            "name": "mcmi",
            "model": network,
            "taught_by": "plain_teacher",
            "starts_from": "plain_teacher",
            "centroids": {"fit": "class_means"},
        },
        "by_plain": {**taught, "taught_by": "plain_teacher"},
        "by_focal": {**taught, "taught_by": "focal_teacher"},
        "by_lad": {**taught, "taught_by": "lad_teacher"},
    }
    config.objective = {**taught, "taught_by": "mcmi_teacher"}
    config.main = "by_mcmi"
    return config
