"""Two short runs with many checkpoints: what is killed again and again."""

from ml_collections import ConfigDict

from kdjax.train import schema


def get_config():
    config = schema.default()
    config.title = "Killed"
    config.data.name = "digits"
    config.data.batch_size = 60
    config.teacher.model = {"name": "mlp", "features": (8,)}
    config.teacher.epochs = 5.0
    config.teacher.augment = {"random_shift": {"max_shift": 1}}
    config.student.model = {"name": "mlp", "features": (4,)}
    config.student.epochs = 5.0
    config.objective = {"name": "kd", "temperature": 4.0, "weight": 0.9, "label_weight": 0.1}
    config.baselines = ConfigDict({})
    config.seeds = (0,)
    config.evaluate_every_epochs = 1.0
    config.log_every = 7
    config.guards.spike = 1.2
    config.checkpoint.every_steps = 3
    return config
