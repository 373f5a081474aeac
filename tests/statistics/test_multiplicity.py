import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.statistics import holm


def test_holm_agrees_with_hand_computation() -> None:
    # sorted .005 x4, .01 x3, .03 x2, .04 x1 -> .02, .03, .06, max(.06, .04)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_capped_at_one_and_leaves_a_single_test_alone() -> None:
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.04]).tolist() == [0.04]
    assert holm([]).tolist() == []


@pytest.mark.parametrize("bad", [[0.5, float("nan")], [1.2], [-0.1], [[0.1]]])
def test_what_is_no_p_value_is_refused(bad: list) -> None:
    with pytest.raises(ValueError, match="p_values"):
        holm(bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(raw: list[float], random) -> None:
    corrected = holm(raw)
    assert (corrected >= np.array(raw)).all()
    assert (corrected <= np.minimum(1, np.array(raw) * len(raw))).all()
    assert (np.diff(corrected[np.argsort(raw)]) >= 0).all()
    moved = random.sample(range(len(raw)), len(raw))
    assert holm([raw[i] for i in moved]).tolist() == corrected[moved].tolist()
