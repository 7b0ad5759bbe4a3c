"""Several sources of unlike worth: whom to learn from.

    python -m kdjax.train --config=configs/digits/several_sources.py --workdir=/tmp/several_sources

Sources of 1, 3 and 64 units in their narrowest layer, trained on the student's labels. Compared:
labels alone, the mean of all sources, their mean weighted by similarity to the task
(DistillWeighted), the most similar one (DistillNearest), the mean weighted by agreement
(consensus_kd), and each source for a part of the classes only (knowledge_concentration).
Claims: sources weighted by similarity are better than their mean (arXiv:2304.12314); agreement
tells which predictions to trust (arXiv:2203.08344).

Outcome: labels 89.1 ± 0.6; sources 33.4 ± 1.3, 68.1 ± 7.2 and 88.2 ± 1.5; mean 85.0 ± 2.7, weighted
86.1 ± 2.5, nearest 89.4 ± 0.8, consensus 84.3 ± 2.2, concentration 85.4 ± 2.6 (3 seeds). The most
similar source alone is better than the mean by 4.4 ± 1.2 points: that claim holds. Weights by
similarity are too even to settle it (+1.1 ± 0.7 over the mean), and those by agreement do not help
(-0.7 ± 0.9).
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Several sources on digits"
    sources = {f"source_{n}": {"name": "mlp", "features": (n, 32)} for n in (1, 3, 64)}
    mean = {"name": "ensemble_kd", "taught_by": tuple(sources)}
    config.baselines = {
        "labels": {"name": "cross_entropy"},
        **{name: {"name": "cross_entropy", "model": model} for name, model in sources.items()},
        "mean": mean,
        "nearest": {**mean, "weights": {"fit": "parc", "power": 1000.0}},
        "consensus": {"name": "consensus_kd", "sharpness": 5.0, "taught_by": tuple(sources)},
        "concentration": {
            "name": "knowledge_concentration",
            "subsets": ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9)),
            "taught_by": tuple(sources),
            "label_weight": 1.0,
        },
    }
    config.objective = {**mean, "weights": {"fit": "parc"}}
    config.main = "weighted"
    return config
