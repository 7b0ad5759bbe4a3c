"""What the teacher's embedding adds to its logits: directions, subclasses, exits.

    python -m kdjax.train --config=configs/digits/embeddings.py --workdir=/tmp/embeddings

Compared: labels alone, kd, norm and direction of the embedding (nd, through a linear projector),
exits of the first hidden layer (ofa_exits), and four subclasses of each class (lelp).
Claims: nd (arXiv:2305.17007, there beside kd), exits (arXiv:2310.19444) and subclasses
(arXiv:2409.20449, there for few classes) add to kd.

Outcome: labels 89.1 ± 0.6, kd 93.0 ± 0.7, nd 88.8 ± 0.2, ofa_exits 91.6 ± 0.4, lelp 94.3 ± 1.3 (3
seeds; teacher 98.3). Subclasses are better than labels by 5.2 ± 0.6 points, and than kd by 1.3 ±
0.9, which three seeds do not settle; the student is far too unsure (ECE 65). Exits are less than
kd, and nd alone is not told from labels: both claims do not show here.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Embeddings beside logits on digits"
    config.baselines.nd = {
        "name": "nd",
        "student": "embedding",
        "teacher": "embedding",
        "projector": "linear",
        "centers": {"fit": "class_centers"},
        "weight": 2.0,
        "label_weight": 1.0,
    }
    config.baselines.ofa_exits = {
        "name": "ofa_exits",
        "features": ("taps/hidden_0",),
        "gamma": 1.0,
        "label_weight": 1.0,
    }
    subclasses = {"name": "mlp", "features": (32,), "subclasses": 4}
    config.objective = {
        "name": "lelp",
        "fitted": {"fit": "subclasses", "subclasses": 4},
        "subclass_temperature": 3.0,
        "temperature": 4.0,
        "model": subclasses,
    }
    return config
