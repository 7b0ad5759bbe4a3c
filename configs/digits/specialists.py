"""Knowledge concentration: three specialists, each of some classes, and one student of all.

    python -m kdjax.train --config=configs/digits/specialists.py --workdir=/tmp/specialists

Specialists of 256 units have seen all 1,437 digits of their classes alone, 0 to 2, 3 to 5 and 6 to
9; of the student's digits 144 have a label, though each digit is taught by the specialist of its
class. Compared: the labels alone, kd from a network of the specialists' size that has seen all
classes (generalist), and the specialists at even paces and at paces that follow how well the
student matches each.
Claim: specialists make a generalist better than labels do (arXiv:1711.07607).

Outcome: labels 90.0 ± 0.0, by_generalist 97.3 ± 0.3, even_paces 93.4 ± 0.4, own_paces 93.7 ± 0.3
(3 seeds; generalist 97.4). The claim holds: better than labels by 3.7 ± 0.2 points. Paces of their
own are not told from even ones (0.3 ± 0.2), and a teacher of all classes is better still, by 3.6 ±
0.3.
"""

from configs.digits import base

SUBSETS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))


def get_config():
    config = base.get_config()
    config.title = "Specialists on digits"
    config.data.train = "train"
    config.data.labelled = 0.1
    config.student.epochs = 60.0
    network = {"name": "mlp", "features": (256,)}
    learnt = {"name": "cross_entropy", "model": network}
    specialists = {
        f"of_{subset[0]}_to_{subset[-1]}": {
            **learnt,
            "weights": {"fit": "of_classes", "classes": subset},
        }
        for subset in SUBSETS
    }
    concentration = {
        "name": "knowledge_concentration",
        "subsets": SUBSETS,
        "taught_by": tuple(specialists),
        "label_weight": 1.0,
    }
    config.baselines = {
        "labels": {"name": "cross_entropy", "where": "labelled"},
        "generalist": learnt,
        "by_generalist": {"name": "kd", "taught_by": "generalist", "label_weight": 1.0},
        **specialists,
        "even_paces": {**concentration, "pace": 0.0},
    }
    config.objective = {**concentration, "pace": 1.0}
    config.main = "own_paces"
    return config
