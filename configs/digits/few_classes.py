"""LELP where there are few classes: even and odd digits, and what the teacher's embedding tells.

    python -m kdjax.train --config=configs/digits/few_classes.py --workdir=/tmp/few_classes

Compared: labels alone, kd, and eight subclasses of each of the two classes, drawn from the
teacher's embedding, without labels (lelp). The teacher knows even and odd alone.
Claim: subclasses are better than kd where there are few classes (arXiv:2409.20449).

Outcome: labels 91.9 ± 0.6, kd 95.7 ± 0.2, lelp 95.2 ± 0.6 (3 seeds; teacher 99.4). Better than
labels by 3.2 ± 0.2 points, behind kd by 0.6 ± 0.3: not reproduced in miniature. The number of
subclasses and their temperature were not tuned for two classes.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Subclasses of even and odd digits"
    config.data.classes = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    config.objective = {
        "name": "lelp",
        "fitted": {"fit": "subclasses", "subclasses": 8},
        "subclass_temperature": 3.0,
        "temperature": 4.0,
        "model": {"name": "mlp", "features": (32,), "subclasses": 8},
    }
    return config
