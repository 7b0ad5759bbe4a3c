"""Born-again networks: each generation learns from the one before, of the same size.

    python -m kdjax.train --config=configs/digits/born_again.py --workdir=/tmp/born_again

Compared: labels alone (the first generation), three further generations, each taught by the
student before it at temperature 1 beside the labels; in the second generation also the labels
weighted by the teacher's confidence (cwtm), and its predictions with all but the best permuted
(dkpp).
Claim: students born again do better than their teacher (arXiv:1805.04770).

Outcome: not run yet.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Born-again networks on digits"
    born = {"name": "kl_divergence", "label_weight": 1.0}
    config.baselines = {
        "labels": {"name": "cross_entropy"},
        "second": {**born, "taught_by": "labels"},
        "second_cwtm": {"name": "cwtm", "taught_by": "labels"},
        "second_dkpp": {"name": "dkpp", "taught_by": "labels", "label_weight": 1.0},
        "third": {**born, "taught_by": "second"},
    }
    config.objective = {**born, "taught_by": "third"}
    config.main = "fourth"
    return config
