"""BD-KD: a small and a large network who learn from each other by divergences balanced by entropy.

    python -m kdjax.train --config=configs/digits/balanced_peers.py --workdir=/tmp/balanced_peers

Compared: a student with the labels alone; with a peer of its own size by mutual learning
(mutual_equal) and by balanced divergences (balanced_equal); with one of 256 units a layer by mutual
learning (mutual), and by balanced divergences, where the larger one has reverse divergences
(balanced).
Claim: better calibrated than mutual learning at the same accuracy (arXiv:2212.12965).

Outcome: labels 89.1 ± 0.6, mutual_equal 89.1 ± 0.6, balanced_equal 89.4 ± 0.5, mutual 88.8 ± 0.6,
balanced 88.5 ± 0.8 (3 seeds). Not better calibrated than mutual learning: between equal peers the
ECE is the same (5.3 and 5.4), with a larger peer it is higher by 0.9 ± 0.3 points (6.4 against
5.5), at no other accuracy (-0.3 ± 0.6). The claim did not reproduce; the divergences' weights were
not tuned.
"""

from configs.digits import base


def get_config():
    config = base.get_config()
    config.title = "Balanced divergences between peers on digits"
    mutual = {"algorithm": "mutual_learning", "peers": 1}
    large = {**mutual, "peer_model": {"name": "mlp", "features": (256, 256)}}
    config.baselines.mutual_equal = mutual
    config.baselines.balanced_equal = {**mutual, "loss": "balanced_kl"}
    config.baselines.mutual = large
    config.objective = {**large, "loss": "balanced_kl", "peer_loss": "reverse_kl"}
    config.main = "balanced"
    return config
