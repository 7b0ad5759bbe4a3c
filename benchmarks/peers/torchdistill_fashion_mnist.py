"""Torchdistill's side of benchmarks/peer_torchdistill.py: its training box and its loss.

    python benchmarks/peers/torchdistill_fashion_mnist.py job.npz answer.json

Runs in an environment of its own with torch and torchdistill (see peer_torchdistill.py). Reads
data, the teacher's and the student's first parameters, and the settings from the job; writes how
long the training took and what the student is worth.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn


def stand_in_for_torchvision() -> None:
    """Gives torchdistill the names that it imports from torchvision, none of which is used here.

    There may be no build of torchvision for a CPU build of torch.
    """
    names = {
        "torchvision": (),
        "torchvision.datasets": (),
        "torchvision.models": (),
        "torchvision.models.densenet": ("_DenseBlock", "_Transition"),
        "torchvision.models.resnet": ("BasicBlock", "conv1x1"),
    }
    for name, members in names.items():
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


try:
    import torchvision  # noqa: F401
except ImportError:
    stand_in_for_torchvision()

import torchdistill  # noqa: E402
from torchdistill.core.distillation import DistillationBox  # noqa: E402
from torchdistill.datasets.registry import register_collate_func  # noqa: E402


class ConvNet(nn.Module):
    """Stages of convolution, batch norm and ReLU, each but the last halving the image."""

    def __init__(self, widths: tuple[int, ...], channels: int = 1, classes: int = 10):
        super().__init__()
        pairs = list(zip((channels, *widths[:-1]), widths, strict=True))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gives the logits."""
        x = x.float() / 255
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(norm(conv(x)))
            if i < len(self.convs) - 1:
                x = nn.functional.max_pool2d(x, 2, ceil_mode=True)
        return self.head(x.mean((2, 3)))


class Perceptron(nn.Module):
    """Hidden layers with ReLU on flattened images."""

    def __init__(self, features: tuple[int, ...], inputs: int = 784, classes: int = 10):
        super().__init__()
        pairs = zip((inputs, *features[:-1]), features, strict=True)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.head = nn.Linear(features[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gives the logits."""
        x = x.flatten(1).float() / 255
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.head(x)


def build(options: dict) -> nn.Module:
    """The network that the options of a recipe name."""
    options = dict(options)
    name = options.pop("name")
    (sizes,) = options.values()
    return {"convnet": ConvNet, "mlp": Perceptron}[name](tuple(sizes))


def load(model: nn.Module, arrays: dict[str, np.ndarray]) -> nn.Module:
    """Takes the parameters of the network in kdjax."""

    def put(parameter: torch.Tensor, name: str, *axes: int) -> None:
        value = arrays[name]
        parameter.data.copy_(torch.from_numpy(value.transpose(axes).copy() if axes else value))

    for i, (conv, norm) in enumerate(
        zip(getattr(model, "convs", ()), getattr(model, "norms", ()), strict=True)
    ):
        put(conv.weight, f"params/stage_{i}/conv/kernel", 3, 2, 0, 1)
        put(norm.weight, f"params/stage_{i}/norm/scale")
        put(norm.bias, f"params/stage_{i}/norm/bias")
        put(norm.running_mean, f"batch_stats/stage_{i}/norm/mean")
        put(norm.running_var, f"batch_stats/stage_{i}/norm/var")
    for i, layer in enumerate(getattr(model, "hidden", ())):
        put(layer.weight, f"params/hidden_{i}/kernel", 1, 0)
        put(layer.bias, f"params/hidden_{i}/bias")
    put(model.head.weight, "params/head/kernel", 1, 0)
    put(model.head.bias, "params/head/bias")
    return model


class Rows(torch.utils.data.Dataset):
    """Images and labels in memory, gathered by whole batches."""

    def __init__(self, image: np.ndarray, label: np.ndarray):
        self.image = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        self.label = torch.from_numpy(label.astype(np.int64))

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole batch."""
        rows = torch.tensor(rows)
        return self.image[rows], self.label[rows]


@register_collate_func
def as_it_is(batch: tuple) -> tuple:
    """Batches come whole."""
    return batch


def schedule(rate: dict, steps: int) -> object:
    """A linear rise, then half a cosine, as a factor of the learning rate."""
    warm = int(rate["warmup"] * steps)

    def factor(step: int) -> float:
        if step < warm:
            return step / warm
        return 0.5 * (1 + math.cos(math.pi * min((step - warm) / (steps - warm), 1)))

    return factor


def box_of(job: dict, arrays: dict, teacher: nn.Module, student: nn.Module) -> DistillationBox:
    """Torchdistill's distillation box for the job."""
    generator = torch.Generator().manual_seed(job["seed"])
    sampler = torch.utils.data.RandomSampler
    optimizer = job["optimizer"]
    settings = {
        "num_epochs": job["epochs"],
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": False,
            "sampler": {"class_or_func": sampler, "kwargs": {"generator": generator}},
            "collate_fn": "as_it_is",
            "kwargs": {"batch_size": job["batch_size"], "drop_last": True, "num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": optimizer["learning_rate"], "weight_decay": 1e-4},
        },
        "scheduler": {
            "key": "LambdaLR",
            "kwargs": {"lr_lambda": schedule(optimizer, job["steps"])},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": ".",
                                "student_module_io": "output",
                                "teacher_module_path": ".",
                                "teacher_module_io": "output",
                                "temperature": job["temperature"],
                                "alpha": job["label_weight"],
                                "beta": job["weight"],
                                "reduction": "batchmean",
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }
    rows = {"train": Rows(arrays["train_image"], arrays["train_label"])}
    device = torch.device("cpu")
    return DistillationBox(teacher, student, rows, settings, device, None, False, 1.0)


def clocks() -> np.ndarray:
    """Seconds that passed, and seconds that this process computed, over all its threads."""
    return np.array([time.perf_counter(), time.process_time()])


def train(box: DistillationBox, job: dict) -> np.ndarray:
    """Trains; gives seconds and processor seconds per image, the first step left out."""
    done, begun = 0, clocks()
    for epoch in range(job["epochs"]):
        box.pre_epoch_process(epoch=epoch)
        for image, label in box.train_data_loader:
            loss = box.forward_process(image, label, None)
            box.post_forward_process(loss)
            done += 1
            if done == 1:
                begun = clocks()
        box.post_epoch_process()
    return (clocks() - begun) / ((done - 1) * job["batch_size"])


def accuracy(model: nn.Module, image: np.ndarray, label: np.ndarray) -> float:
    """Share of the images that are classified rightly."""
    rows = Rows(image, label)
    model.eval()
    with torch.no_grad():
        parts = [model(part).argmax(1) for part in rows.image.split(1000)]
    return float((torch.cat(parts) == rows.label).float().mean())


def main() -> None:
    """One job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("answer", type=Path)
    options = parser.parse_args()
    arrays = dict(np.load(options.job))
    job = json.loads(str(arrays.pop("job")))
    torch.manual_seed(job["seed"])

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

    teacher = load(build(job["teacher"]), under("teacher/")).eval()
    student = load(build(job["student"]), under("student/"))
    with torch.no_grad():
        seen = torch.from_numpy(arrays["test_image"][:100].transpose(0, 3, 1, 2).copy())
        gap = float((teacher(seen) - torch.from_numpy(arrays["test_logits"])).abs().max())
    seconds, computed = train(box_of(job, arrays, teacher, student), job)
    answer = {
        "images_per_second": 1 / seconds,
        "processor_seconds_per_image": computed,
        "accuracy": accuracy(student, arrays["test_image"], arrays["test_label"]),
        "teacher_gap": gap,
        "torch": torch.__version__,
        "torchdistill": torchdistill.__version__,
        "threads": torch.get_num_threads(),
    }
    options.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
