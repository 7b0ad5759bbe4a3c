"""Born-again networks: each generation learns from the one before, of the same size.

    python -m kdjax.train --config=configs/digits/born_again.py --workdir=/tmp/born_again

Compared: labels alone (the first generation), three further generations, each taught by the
student before it at temperature 1 beside the labels; in the second generation also the labels
weighted by the teacher's confidence (cwtm), and its predictions with all but the best permuted
(dkpp).
Claim: students born again do better than their teacher (arXiv:1805.04770).

Outcome: labels 89.1 ± 0.6, second 89.6 ± 0.6, second_cwtm 89.7 ± 0.6, second_dkpp 89.6 ± 0.3, third
89.5 ± 1.4, fourth 88.9 ± 0.6 (3 seeds). The second generation gains 0.6 ± 0.2 points, and as much
with permuted predictions or with weights alone; as its three kinds also share their starting
points, which are not those of the first, that is no more than chance may do. Later generations lose
it again (-0.7 ± 0.5). Not reproduced in miniature.
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
