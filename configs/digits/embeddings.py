"""What the teacher's embedding adds to its logits: directions, subclasses, exits.

    python -m kdjax.train --config=configs/digits/embeddings.py --workdir=/tmp/embeddings

Compared: labels alone, kd, kd with norm and direction of the embedding beside it (nd_kd, through a
linear projector), exits of the first hidden layer (ofa_exits), and four subclasses of each class
(lelp).
Claims: nd (arXiv:2305.17007), exits (arXiv:2310.19444) and subclasses (arXiv:2409.20449, there for
few classes) add to kd.

Outcome: labels 89.1 ± 0.6, kd 93.0 ± 0.7, nd_kd 93.6 ± 0.8, ofa_exits 91.9 ± 0.6, lelp 94.3 ± 1.3
(3 seeds; teacher 98.3). Norm and direction add 0.6 ± 0.1 points to kd: that claim holds. Subclasses
are ahead of kd by 1.3 ± 0.9, which three seeds do not settle, and their student is far too unsure
(ECE 65). Exits are behind kd by 1.0 ± 0.1: that claim does not show here.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Embeddings beside logits on digits"
    config.baselines.nd_kd = {
        "name": "nd",
        "student": "embedding",
        "teacher": "embedding",
        "projector": "linear",
        "centers": {"fit": "class_centers"},
        "weight": 2.0,
        "label_weight": base.KD["label_weight"],
        "beside": {"kd": {key: base.KD[key] for key in ("name", "temperature", "weight")}},
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
