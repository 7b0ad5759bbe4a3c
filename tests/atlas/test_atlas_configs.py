import dataclasses
from pathlib import Path

import pytest
import small

from kdjax.atlas import load_family, load_protocol
from kdjax.train.errors import RecipeError
from kdjax.train.experiment import Experiment, load_data

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "atlas"
FAMILIES = [p.stem for p in sorted(CONFIGS.glob("*.toml")) if "[methods." in p.read_text()]
PROTOCOLS = [p.stem for p in sorted(CONFIGS.glob("*.toml")) if "[recipe]" in p.read_text()]
METHODS = [(f, m) for f in FAMILIES for m in load_family(f, CONFIGS).methods.values()]


@pytest.mark.parametrize(
    ("family", "method"), METHODS, ids=[f"{f}.{method.name}" for f, method in METHODS]
)
def test_every_method_can_be_trained(family, method, tmp_path):
    protocol = load_protocol("small", small.write_configs(tmp_path / "configs"))
    condition = "semi" if method.condition == "semi" else "full"
    method = dataclasses.replace(method, condition=condition)
    config = protocol.config(method, 1e-3)
    Experiment(config, load_data(config), tmp_path).check()


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_has_a_condition_in_every_protocol(family, name):
    protocol = load_protocol(name, CONFIGS)
    for method in load_family(family, CONFIGS).methods.values():
        assert protocol.config(method, 1e-3).main == method.name
        trial = protocol.trial_config(method, 1e-3)
        assert trial.data.test != protocol.config(method, 1e-3).data.test
        assert trial.student.epochs < protocol.config(method, 1e-3).student.epochs


def test_every_claim_is_about_something_else():
    for _, method in METHODS:
        assert all(claim.than != method.name for claim in method.claims)


def test_the_scale_is_a_share_of_the_budget(tmp_path):
    folder = small.write_configs(tmp_path / "configs")
    whole, half = (load_protocol("small", folder, scale).teacher_config() for scale in (1, 0.5))
    assert half.student.epochs == whole.student.epochs / 2
    assert half.teacher.epochs == whole.teacher.epochs / 2
    with pytest.raises(RecipeError, match="--scale is 0"):
        load_protocol("small", folder, 0)


WRONG = {
    "measure": ('measure = "ece"', 'measure = "eze"', "'eze'"),
    "other method": ('than = "labels"', 'than = "lables"', 'did you mean "labels"'),
    "field": ('paper = "', 'papper = "', 'did you mean "paper"'),
    "options": ('options = { name = "ofa" }', "", "ofa: options are missing"),
    "baseline": ("[methods.kd]", "[methods.kdd]", "no method 'kd'"),
    "no TOML": ("[elsewhere]", "[elsewhere", "two.toml"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_family_is_one_line(what, tmp_path):
    old, new, wanted = WRONG[what]
    folder = small.write_configs(tmp_path / "configs", family=small.FAMILY.replace(old, new))
    with pytest.raises(RecipeError) as error:
        load_family("two", folder)
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)


WRONG_PROTOCOLS = {
    "key": ('"data.batch_size"', '"data.batch_sise"', 'did you mean "batch_size"'),
    "section": ('"data.name"', '"date.name"', 'did you mean "data"'),
    "tuning": ("share = 0.5", "", "share"),
    "value": ("60", "0", "config.data.batch_size is 0"),
}


@pytest.mark.parametrize("what", WRONG_PROTOCOLS)
def test_what_is_wrong_with_a_protocol_is_one_line(what, tmp_path):
    old, new, wanted = WRONG_PROTOCOLS[what]
    folder = small.write_configs(tmp_path / "configs", small.PROTOCOL.replace(old, new))
    with pytest.raises(RecipeError) as error:
        load_protocol("small", folder)
    assert wanted in str(error.value)


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    folder = small.write_configs(tmp_path / "configs")
    with pytest.raises(RecipeError, match='did you mean "small"'):
        load_protocol("smal", folder)
    with pytest.raises(RecipeError, match="no 'small' with methods"):
        load_family("small", folder)
    with pytest.raises(RecipeError, match=r'--methods: there is no .*did you mean "labels"'):
        load_family("two", folder).chosen(("lables",))


def test_methods_are_chosen_in_the_order_of_the_family(tmp_path):
    family = load_family("two", small.write_configs(tmp_path / "configs"))
    assert [m.name for m in family.chosen(("ofa", "labels"))] == ["labels", "ofa"]
    assert [m.name for m in family.chosen(())] == ["labels", "kd", "ofa"]
