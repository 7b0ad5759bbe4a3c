import pytest
from scipy import stats

from kdjax.atlas import verdicts
from kdjax.atlas.verdicts import Difference, paired_difference, verdict

UP, DOWN, BOTH = (
    Difference(0.2, 0.1, 0.3, 3),
    Difference(-0.2, -0.3, -0.1, 3),
    Difference(0.1, -0.1, 0.3, 3),
)


def test_the_interval_is_that_of_the_paired_t_test():
    ours, theirs = {0: 0.91, 1: 0.88, 2: 0.93, 7: 0.5}, {2: 0.9, 0: 0.87, 1: 0.89}
    found = paired_difference(ours, theirs, level=0.9)
    test = stats.ttest_rel([0.91, 0.88, 0.93], [0.87, 0.89, 0.9]).confidence_interval(0.9)
    assert found.seeds == 3
    assert found.low == pytest.approx(test.low)
    assert found.high == pytest.approx(test.high)
    assert found.mean == pytest.approx((test.low + test.high) / 2)


def test_without_pairs_there_is_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: 3.0}, {0: 1.0}) == (2.0, None, None, 1)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match=f"level is {level}"):
        paired_difference({0: 1.0}, {0: 1.0}, level)


@pytest.mark.parametrize(
    ("difference", "measure", "options", "wanted"),
    [
        (UP, "accuracy", {}, verdicts.REPRODUCED),
        (DOWN, "accuracy", {}, verdicts.NOT_REPRODUCED),
        (BOTH, "accuracy", {}, verdicts.INCONCLUSIVE),
        (UP, "ece", {}, verdicts.NOT_REPRODUCED),
        (DOWN, "nll", {}, verdicts.REPRODUCED),
        (UP, "accuracy", {"worse": True}, verdicts.NOT_REPRODUCED),
        (UP, "ece", {"worse": True}, verdicts.REPRODUCED),
        (DOWN, "accuracy", {"margin": 0.31}, verdicts.REPRODUCED),
        (DOWN, "accuracy", {"margin": 0.2}, verdicts.INCONCLUSIVE),
        (DOWN, "accuracy", {"margin": 0.05}, verdicts.NOT_REPRODUCED),
        (UP, "ece", {"margin": 0.31}, verdicts.REPRODUCED),
        (Difference(0.0, 0.0, 0.0, 3), "accuracy", {}, verdicts.INCONCLUSIVE),
        (Difference(0.2, None, None, 1), "accuracy", {}, verdicts.NOT_RUN),
        (None, "accuracy", {}, verdicts.NOT_RUN),
    ],
)
def test_verdicts(difference, measure, options, wanted):
    assert verdict(difference, measure, **options) == wanted


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="measure is 'loss'"):
        verdict(UP, "loss")
    with pytest.raises(ValueError, match=r"margin is -0\.1"):
        verdict(UP, "accuracy", margin=-0.1)
