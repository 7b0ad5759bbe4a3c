"""A teacher assistant: a network of middle size learns from the teacher and teaches the student.

    python -m kdjax.train --config=configs/digits/teacher_assistant.py --workdir=/tmp/assistant

Compared, for a student with 8 hidden units: labels alone, kd from the teacher, kd from an assistant
with 32 hidden units, whom the teacher taught by kd.
Claim: where the gap in size is large, a step between helps (arXiv:1902.03393).

Outcome: not run yet.
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
