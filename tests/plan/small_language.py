"""The language recipe, so small that a TPU's compiler is done in half a minute."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs.language import decoder_7b_to_1b

get_problem = decoder_7b_to_1b.get_problem


def get_config():
    config = decoder_7b_to_1b.get_config()
    config.vocabulary = 1024
    config.data = {"batch_size": 8, "length": 128}
    config.teacher.model = {"width": 256, "depth": 3, "heads": 4, "kv_heads": 2, "hidden": 512}
    config.student.model = {"width": 128, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 256}
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}
    return config
