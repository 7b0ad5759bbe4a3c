"""BD-KD: peers who learn from each other by divergences balanced by entropy.

    python -m kdjax.train --config=configs/digits/balanced_peers.py --workdir=/tmp/balanced_peers

Compared: a student with the labels alone, one with a peer by mutual learning, and one with a peer
by balanced divergences.
Claim: better calibrated than mutual learning at the same accuracy (arXiv:2212.12965).

Outcome: not run yet.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Balanced divergences between peers on digits"
    config.baselines.mutual = {"algorithm": "mutual_learning", "peers": 1}
    config.objective = {"algorithm": "mutual_learning", "peers": 1, "loss": "balanced_kl"}
    config.main = "balanced"
    return config
