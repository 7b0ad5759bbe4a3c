"""A teacher assistant: a network of middle size learns from the teacher and teaches the student.

    python -m kdjax.train --config=configs/digits/teacher_assistant.py --workdir=/tmp/assistant

Compared, for a student with 8 hidden units: labels alone, kd from the teacher, kd from an assistant
with 32 hidden units, whom the teacher taught by kd.
Claim: where the gap in size is large, a step between helps (arXiv:1902.03393).

Outcome: labels 87.6 ± 1.7, kd 89.4 ± 1.6, assistant 93.0 ± 0.7, kd_by_assistant 87.5 ± 1.3 (3
seeds; teacher 98.3). Not reproduced in miniature: the assistant's student is behind the teacher's
by 1.9 ± 1.7 points.
"""

from configs.digits import base


def get_config():
    config = base.compared_with_kd(base.get_config())
    config.title = "A teacher assistant on digits"
    config.student.model = {"name": "mlp", "features": (8,)}
    config.baselines.assistant = {**base.KD, "model": {"name": "mlp", "features": (32,)}}
    config.objective = {**base.KD, "taught_by": "assistant"}
    config.main = "kd_by_assistant"
    return config
