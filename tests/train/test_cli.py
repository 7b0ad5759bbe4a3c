import sys

import pytest
from commands import TINY, finish, kdjax, start

from kdjax.train.recipe_file import load_recipe

RECIPE = """
from kdjax.train import schema

def get_config():
    config = schema.default()
    config.teacher.model = {"name": "mlp", "features": (8,)}
    config.student.model = {"name": "mlp", "features": (4,)}
    CHANGE
    return config
"""

FLAGS = {
    "a section": ("--config.objektive.name=x", ["'objektive'", 'did you mean "objective"']),
    "a key": ("--config.objective.temprature=2", ["config.objective", 'mean "temperature"']),
    "a key below": ("--config.teacher.optimizer.learning_rat=2", ['mean "learning_rate"']),
    "a key of no section": ("--config.title.x=2", ["config.title", "'x'"]),
    "text for a number": ("--config.teacher.epochs=x", ["--config.teacher.epochs", "'x'"]),
    "a fraction for an integer": ("--config.data.batch_size=1.5", ["data.batch_size", "1.5"]),
    "a flag": ("--wrkdir=x", ["wrkdir", "workdir"]),
    "an argument": ("kd", ["unknown argument 'kd'"]),
    "a loss": ("--config.objective.name=kdd", ["config.objective.name", 'mean "kd"']),
    "a model": ("--config.student.model.name=mpl", ["config.student.model", "mlp"]),
    "an optimiser": ("--config.student.optimizer.name=adamww", ["student.optimizer", '"adamw"']),
    "a schedule": ("--config.student.optimizer.schedule=cosin", ['mean "cosine"']),
    "an augmentation": (
        "--config.teacher.augment={'random_shfit': {}}",
        ["teacher.augment", '"random_shift"'],
    ),
    "a data set": ("--config.data.name=digit", ["config.data", "digit"]),
    "a split": ("--config.data.test=tset", ["config.data", "tset"]),
    "a source": ("--source_dir=/nowhere", ["config.data", "source_dir"]),
    "classes": ("--config.teacher.num_classes=100", ["teacher.num_classes", "100", "10"]),
    "the batch size": ("--config.data.batch_size=5000", ["batch_size is 5000", "1437"]),
    "no epochs": ("--config.student.epochs=0", ["config.student.epochs is 0"]),
    "select": ("--config.select=bset", ["config.select", "'best'"]),
    "a guard": ("--config.guards.non_finite=skp", ["config.guards", "'skp'", "'skip'"]),
    "a spike": ("--config.guards.spike=-1.0", ["config.guards", "spike is -1.0"]),
    "a timeout": ("--config.data.timeout=-5.0", ["config.data.timeout is -5.0"]),
    "validation": ("--config.select=best", ["config.data.validation"]),
    "seeds": ("--config.seeds=-1", ["config.seeds"]),
    "a teacher": ("--config.teacher.checkpoint=/nowhere", ["teacher.checkpoint", "/nowhere"]),
    "a run's name": ("--config.main=labels", ["config.main", "'labels'"]),
    "the teacher's name": ("--config.main=teacher", ["config.main", "'teacher'"]),
    "a path as a name": ("--config.main=a/b", ["config.main", "'a/b'"]),
}


@pytest.mark.parametrize("flag, said", FLAGS.values(), ids=FLAGS.keys())
def test_a_wrong_flag_is_one_line_before_any_training(flag, said, tmp_path):
    answer = kdjax("train", f"--config={TINY}", f"--workdir={tmp_path / 'w'}", flag)
    assert answer.status == 2
    assert answer.line.startswith("error: ")
    for words in said:
        assert words in answer.line
    assert not (tmp_path / "w" / "runs").exists()
    assert not (tmp_path / "w" / "config.json").exists(), "another recipe may take the folder"


FILES = {
    "a name": ("confg.title = 'x'", ["NameError", "confg", "recipe.py, line 8"]),
    "a type": ("config.teacher.epochs = 'x'", ["line 8", "epochs"]),
    "syntax": ("config.teacher.epochs = = 2", ["line 8", "SyntaxError"]),
    "an unknown key": ("config.tilt = 'x'", ["config has no 'tilt'", '"title"']),
    "a section that is none": ("del config.data; config.data = 3", ["config.data is 3"]),
    "a missing section": ("del config.data", ["config.data is missing"]),
    "an option of a loss": (
        "config.objective = {'name': 'kd', 'temprature': 2.0}",
        ["config.objective", '"temperature"'],
    ),
    "an option of an objective": (
        "config.objective = {'name': 'ps_kd', 'alfa': 2.0}",
        ["config.objective", "alfa"],
    ),
    "an option of a baseline": (
        "config.baselines.other = {'name': 'dkd', 'alhpa': 2.0}",
        ["config.baselines.other", '"alpha"'],
    ),
    "a baseline without a name": (
        "config.baselines.other = {'temperature': 2.0}",
        ["config.baselines.other"],
    ),
    "a baseline that is none": ("config.baselines.other = 3", ["config.baselines.other is 3"]),
    "an objective without a name": ("config.objective = {'weight': 2.0}", ["config.objective"]),
    "an option of a model": (
        "config.student.model = {'name': 'mlp', 'featurse': (8,)}",
        ["config.student.model", "did you mean 'features'"],
    ),
    "a model without a name": ("config.student.model = {}", ["config.student.model"]),
    "an option of an optimiser": (
        "config.student.optimizer = {'name': 'adamw', 'weight_decy': 1e-4}",
        ["config.student.optimizer", '"weight_decay"'],
    ),
    "an option of an augmentation": (
        "config.teacher.augment = {'random_shift': {'max_shfit': 1}}",
        ["config.teacher.augment.random_shift", "max_shfit"],
    ),
    "a scheme": (
        "config.objective = {'algorithm': 'mutual_lerning'}",
        ["config.objective.algorithm", '"mutual_learning"'],
    ),
    "an option of a scheme": (
        "config.objective = {'algorithm': 'mutual_learning', 'pears': 2}",
        ["config.objective", "pears"],
    ),
    "a signal": (
        "config.objective = {'name': 'hint', 'student': 'taps/nowhere', 'teacher': 'taps/nowhere'}",
        ["config", "nowhere"],
    ),
    "shapes": (
        "config.objective = {'name': 'hint', 'student': 'embedding', 'teacher': 'embedding'}",
        ["config.objective", "(128, 4)", "(128, 8)"],
    ),
}


@pytest.mark.parametrize("change, said", FILES.values(), ids=FILES.keys())
def test_a_wrong_config_file_is_one_line_before_any_training(change, said, tmp_path):
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE.replace("CHANGE", change))
    answer = kdjax("train", f"--config={file}", f"--workdir={tmp_path / 'w'}")
    assert answer.status == 2
    assert answer.line.startswith("error: ")
    for words in said:
        assert words in answer.line
    assert not (tmp_path / "w" / "runs").exists()


def test_a_config_file_that_is_not_there(tmp_path):
    answer = kdjax("train", f"--config={TINY[:-5]}yy.py", f"--workdir={tmp_path}")
    assert answer.status == 2
    assert "no such file" in answer.line and f'did you mean "{TINY}"' in answer.line


def test_a_config_file_that_is_none(tmp_path):
    file = tmp_path / "recipe.py"
    for text in ("", "def get_config(): pass", "import nowhere"):
        file.write_text(text)
        answer = kdjax("train", f"--config={file}", f"--workdir={tmp_path / 'w'}")
        assert answer.status == 2 and str(file) in answer.line


@pytest.mark.parametrize("flag", ["config", "workdir"])
def test_a_flag_that_is_missing(flag, tmp_path):
    given = {"config": f"--config={TINY}", "workdir": f"--workdir={tmp_path / 'w'}"}
    del given[flag]
    answer = kdjax("train", *given.values())
    assert answer.status == 2 and f"--{flag}" in answer.line


def test_commands():
    assert "train" in kdjax().out and kdjax("--help").status == 0
    answer = kdjax("trian")
    assert answer.status == 2 and 'did you mean "train"' in answer.line


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_folder_without_a_run(command, tmp_path):
    flags = ["--output=/nowhere"] if command == "export" else []
    answer = kdjax(command, f"--workdir={tmp_path}", *flags)
    assert answer.status == 2 and "holds no run" in answer.line


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    answer = kdjax("train", f"--config={TINY}", f"--workdir={tmp_path / 'file' / 'w'}")
    assert answer.status == 2 and "cannot be written to" in answer.line


def test_data_that_are_damaged(tmp_path):
    from kdjax import data

    data.load("digits", "train", data_dir=tmp_path)
    (file,) = tmp_path.glob("kdjax_digits/*/*test.array_record*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    flags = [f"--config={TINY}", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}"]
    answer = kdjax("train", *flags)
    assert answer.status == 2 and str(file) in answer.line and "delete" in answer.line
    file.unlink()
    answer = kdjax("train", *flags)
    assert answer.status == 2 and str(file) in answer.line and "missing" in answer.line


def test_config_files_import_each_other_from_any_folder(tmp_path, monkeypatch):
    """`from configs.family import base` works whatever the current folder is."""
    folder = tmp_path / "configs" / "family"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text(RECIPE.replace("CHANGE", "config.title = 'Elsewhere'"))
    (folder / "own.py").write_text("from configs.family.base import get_config")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in ("configs", "configs.family"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    path = list(sys.path)
    assert load_recipe("../configs/family/own.py").title == "Elsewhere"
    assert sys.path == path
    for name in ("configs", "configs.family", "configs.family.base"):
        monkeypatch.delitem(sys.modules, name)


def test_a_process_elsewhere(tmp_path):
    flags = [f"--config={TINY}", f"--workdir={tmp_path / 'w'}", "--config.objective.name=kdd"]
    answer = finish(start("kdjax.train", *flags, cwd=tmp_path))
    assert answer.status == 2 and 'did you mean "kd"' in answer.line
