"""`kdjax plan` on a recipe: here, without a TPU's compiler, and with it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from kdjax.data import load
from kdjax.plan import CHIPS, Memory, Plan, Topology, command
from kdjax.train.recipe_file import load_recipe

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "train" / "tiny_recipe.py"
LANGUAGE = Path(__file__).with_name("small_language.py")


def run(*arguments, first="", **environment):
    paths = os.pathsep.join(filter(None, (first, str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "kdjax.plan", *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_recipe_on_simulated_devices(tmp_path):
    answer = run(
        f"--config={TINY}", "--topology=cpu", "--devices=4", "--batch_size=64",
        "--compare=data=-1;data=2,fsdp=2", f"--output={tmp_path}",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    plans = json.loads((tmp_path / "plan.json").read_text())
    assert [plan["mesh"] for plan in plans] == [
        {"data": 4, "fsdp": 1, "tensor": 1},
        {"data": 2, "fsdp": 2, "tensor": 1},
    ]
    assert all(plan["batch_size"] == 64 and plan["traffic"] for plan in plans)
    assert set(plans[0]["parameters"]) == {"teacher", "student"}
    assert (tmp_path / "plan.md").read_text() in answer.stdout


def test_a_training_set_on_the_devices_takes_its_memory(tmp_path):
    """Whole on each of them; a batch is its row numbers."""
    answer = run(
        f"--config={TINY}", "--topology=cpu", "--devices=4", "--batch_size=64",
        "--config.data.on_device", f"--output={tmp_path}",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    train, parts = load("digits", "train"), plan["memory"]["parts"]
    label_and_id = 2 * 4
    assert parts["training set"] == train.size * (8 * 8 + label_and_id)
    assert parts["batch"] == 4 * 64 // 4
    assert set(plan["parameters"]) == {"teacher", "student"}


def test_what_a_user_can_mend_is_one_line():
    answer = run(f"--config={TINY}", "--topology=cpu", "--devices=4", "--batch_size=6")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ") and "multiple of the 4 devices" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "v5x:2x2"}, "topology is 'v5x:2x2'"),
        ({"name": "cpu", "devices": 4, "sizes": {"fsdp": 3}}, "do not fit 4 devices"),
        ({"name": "cpu", "devices": 1, "search": "powers"}, "search wants a chip"),
        ({"name": "cpu", "devices": 1, "compare": "rows=4"}, "no axis 'rows'"),
    ],
)
def test_what_does_not_fit_together(options, message):
    with pytest.raises(ValueError, match=message):
        command.run(str(TINY), load_recipe(str(TINY)), **options)


def test_the_search_plans_the_largest_batch(monkeypatch, capsys):
    config = load_recipe(str(TINY))
    chips = Topology("v5e:2x2", jax.devices(), CHIPS["v5e"])
    monkeypatch.setattr(command, "topology", lambda *_: chips)

    def planned(path, config, where, sizes):
        size = config.data.batch_size
        memory = Memory({}, size * 2**30, 0, 0, 0)
        return Plan("", {"data": 8}, where.chip, "", size, "examples", size, {}, memory)

    monkeypatch.setattr(command, "_planned", planned)
    (found,) = command.run(str(TINY), config, name="v5e:2x2", search="powers")
    assert found.batch_size == 8
    # From the recipe's 60, less what eight devices cannot share, by halves.
    tried = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tried")]
    assert [line.split()[2] for line in tried] == ["56:", "24:", "8:"]


def test_without_a_tpu_compiler(tmp_path):
    # A finder that denies libtpu stands for an environment without it.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'libtpu' else found(n, *a)\n"
    )
    answer = run(
        f"--config={TINY}", "--topology=v5e:2x2", "--batch_size=64",
        first=str(tmp_path),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "pip install 'kdjax[plan]'" in answer.stdout
    assert "Its arrays take" in answer.stdout and "student: optimiser" in answer.stdout


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra [plan] is not installed"
)


@needs_libtpu
def test_a_language_model_on_a_tpu(tmp_path):
    answer = run(
        f"--config={LANGUAGE}", "--topology=v5e:2x2", f"--output={tmp_path}",
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    assert plan["fits"] and plan["unit"] == "tokens" and plan["items"] == 8 * 128
    traffic = {part["kind"]: part for part in plan["traffic"] if part["axes"] == ["fsdp"]}
    # Seven kernels of each layer, the student's twice, and head and embedding of both: the layers
    # are gathered one by one, and gradients come back as parts.
    assert traffic["all-gather"]["count"] >= 7 * (3 + 2 * 2)
    assert {"reduce-scatter", "collective-permute"} & set(traffic)
    assert plan["unknown_loops"] == 0
