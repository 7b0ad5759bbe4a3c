"""A protocol on digits that takes seconds, and the files that a run leaves behind."""

import json

PROTOCOL = """
title = "Digits"
seeds = [0, 1]

[tuning]
train = "train[:80%]"
validation = "train[80%:]"
share = 0.5
seed = 100
learning_rates = [1e-3, 1e-2]

[recipe]
"data.name" = "digits"
"data.batch_size" = 60
"teacher.train" = "train"
"teacher.model" = { name = "mlp", features = [16] }
"student.model" = { name = "mlp", features = [4] }

[conditions.full]
title = "all digits"

[conditions.few]
title = "a fifth of the digits"
recipe = { "data.train" = "train[:20%]" }
tuning = { train = "train[:20%]" }

[conditions.semi]
title = "all digits, a tenth with labels"
recipe = { "data.labelled" = 0.1 }
"""
FAMILY = """
[methods.labels]
options = { name = "cross_entropy" }

[methods.kd]
paper = "1503.02531"
options = { name = "kd", temperature = 4.0, weight = 0.9, label_weight = 0.1 }
claims = [{ text = "a teacher helps", than = "labels" }]

[methods.ofa]
condition = "few"
options = { name = "ofa" }
claims = [
  { text = "it calibrates better", measure = "ece" },
  { text = "it is as good as the teacher", than = "teacher", margin = 0.5 },
]

[elsewhere]
dho = "wants a student with two heads"
"""
CLOCK = ("seconds", "examples_per_second", "environment")


def write_configs(folder, protocol=PROTOCOL, family=FAMILY):
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(protocol)
    (folder / "two.toml").write_text(family)
    return folder


def kept_files(results):
    """The files of results by path, without what depends on the clock."""
    found = {}
    for path in sorted(results.rglob("*.json")):
        stored = json.loads(path.read_text())
        if path.name != "cost.json":
            found[str(path.relative_to(results))] = _without_clock(stored)
    return found


def _without_clock(stored):
    if not isinstance(stored, dict):
        return stored
    skipped = (*CLOCK, "environments", "cost")
    return {key: _without_clock(value) for key, value in stored.items() if key not in skipped}
