"""Data pruned by score: does a teacher do without the choice of examples?

    python -m kdjax.train --config=configs/digits/pruned_by_score.py --workdir=/tmp/pruned_by_score

Compared on a tenth of 1,437 digits: labels of digits drawn at random, and of the hardest ones by
EL2N and by GraNd, which a small network (scorer) that has seen all labels gives; kd on the hardest
ones, and on those drawn at random.
Claim: with a teacher a random choice is better than any score without one (arXiv:2403.07854).

Outcome: labels 90.0 ± 0.0, el2n 86.8 ± 1.3, grand 85.1 ± 3.0; el2n_kd 94.6 ± 1.0, random_kd 94.8
± 0.6 (3 seeds; teacher 98.3, scorer 96.0). The claim holds: with a teacher, digits drawn at random
are better than the hardest ones without, by 8.1 ± 0.7 points and more. Without a teacher a random
choice is better than either score, with one the choice makes no difference (0.2 ± 0.6).
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Data pruned by score, on digits"
    config.data.train = "train"
    config.data.labelled = 0.1
    config.student.epochs = 60.0
    hardest = {"fit": "hardest", "of": "scorer", "share": 0.1}
    config.baselines = {
        "scorer": {"name": "cross_entropy", "model": {"name": "mlp", "features": (8,)}},
        "labels": {"name": "cross_entropy", "where": "labelled"},
        "el2n": {"name": "cross_entropy", "weights": hardest},
        "grand": {"name": "cross_entropy", "weights": {**hardest, "score": "grand"}},
        "el2n_kd": {"name": "kd", "temperature": 4.0, "weights": hardest},
    }
    config.objective = {"name": "kd", "temperature": 4.0, "where": "labelled"}
    config.main = "random_kd"
    return config
