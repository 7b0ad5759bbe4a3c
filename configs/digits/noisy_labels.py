"""A third of the labels wrong: which examples to trust.

    python -m kdjax.train --config=configs/digits/noisy_labels.py --workdir=/tmp/noisy_labels

Compared: labels alone; trained on, from there, as before (continued) or with weights by the
influence of each example on 143 clean held-out ones (by_influence); kd from a teacher who has seen
clean labels, on all digits and on those that teacher and student are sure about (selected_kd).
Claims: weights by influence help (arXiv:2501.02705); so does the choice of confident examples
(arXiv:2307.11469, there on images from the web).

Outcome: labels 55.1 ± 1.5, continued 53.0 ± 1.8, by_influence 56.8 ± 0.8, kd 93.1 ± 0.7,
selected_kd 93.1 ± 1.4 (3 seeds; teacher 98.3). Weights by influence are better than none by 3.8 ±
0.6 points: the claim holds. Choosing confident digits makes no difference here (+0.1 ± 0.4), as all
of them are digits.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Noisy labels on digits"
    config.data.label_noise = 0.3
    config.data.validation = "train[90%:]"
    more = {"name": "cross_entropy", "starts_from": "labels"}
    config.baselines = {
        "labels": {"name": "cross_entropy"},
        "continued": more,
        "by_influence": {**more, "weights": {"fit": "influence", "damping": 0.1}},
        "kd": base.KD,
    }
    config.objective = {
        "name": "selected_kd",
        "threshold": 0.5,
        "weight": 0.9,
        "label_weight": 0.1,
    }
    return config
