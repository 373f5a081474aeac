"""What answers cost, of strategies that ask a hosted model for some of them only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.evaluation import UsageRow
from toolkit.report.costs import _price_per_1000


def row(number: int, price: float | None, answered_by: str) -> UsageRow:
    return UsageRow("cascade", None, str(number), 1, 0, 0, 0, 1, 1, "answered", "stop", price, answered_by)


@pytest.mark.parametrize(
    ("asked", "price"),
    [
        ([(0.01, "large"), (None, ""), (None, ""), (None, "")], 2.5),  # one of four went to the hosted model
        ([(0.01, "large"), (0.03, "large")], 20.0),
        ([(0.01, "large"), (None, "unpriced")], 10.0),  # what is unknown is not taken for free
        ([(None, ""), (None, "")], None),
    ],
)
def test_a_price_is_a_mean_over_all_answers_whose_price_is_known(asked: Any, price: float | None) -> None:
    usage = [row(number, *said) for number, said in enumerate(asked)]
    run: Any = SimpleNamespace(usage=usage)
    assert _price_per_1000(run, "cascade") == (None if price is None else pytest.approx(price))
