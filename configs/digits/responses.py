"""Other ways to compare predictions: rankings, transport, classes, weights.

    python -m kdjax.train --config=configs/digits/responses.py --workdir=/tmp/responses

Compared: labels alone, kd, pld with the teacher's weights and with even ones (list_mle), and beside
the labels sinkhorn_kd, wsld, multi_level_kd, binary_kl, balanced_kl; probability_mse with a quarter
of the truth.
Claims: a ranking weighted by the teacher is better than kd, and even weights are worse
(arXiv:2506.12542); so are transport between batches (arXiv:2402.17110) and weighted soft labels
(arXiv:2102.00650).

Outcome: not run yet.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "Ways to compare predictions on digits"
    config.baselines.list_mle = {"name": "pld", "rank_weights": "uniform"}
    config.baselines.sinkhorn = {"name": "sinkhorn_kd", "temperature": 2.0, "label_weight": 1.0}
    config.baselines.wsld = {"name": "wsld", "weight": 2.25, "label_weight": 1.0}
    config.baselines.multi_level = {"name": "multi_level_kd", "label_weight": 1.0}
    config.baselines.binary_kl = {"name": "binary_kl", "label_weight": 1.0}
    config.baselines.balanced_kl = {"name": "balanced_kl", "temperature": 4.0, "label_weight": 1.0}
    config.baselines.mse = {"name": "probability_mse", "label_share": 0.25, "weight": 10.0}
    config.objective = {"name": "pld", "temperature": 4.0}
    return config
