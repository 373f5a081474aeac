"""Statistics of a fair comparison: pure functions over arrays, importing nothing else of this toolkit.

One score: `mean_interval`, `wilson`. Two systems on the same examples: `paired_difference`. Metrics that are not means:
`cluster_bootstrap`, `paired_cluster_bootstrap`, `paired_randomisation`. Several contrasts: `holm`. Planning:
`resolvable_difference`, `examples_needed`. Every function takes cluster labels: examples from one source are not
independent. All randomness comes from the `seed` given.
"""

from toolkit.statistics.bootstrap import BootstrapEstimate, Statistic, cluster_bootstrap, paired_cluster_bootstrap
from toolkit.statistics.intervals import Interval, MeanEstimate, mean_interval, wilson
from toolkit.statistics.multiplicity import holm
from toolkit.statistics.paired import PairedDifference, bonett_price, paired_difference
from toolkit.statistics.power import (
    can_resolve,
    examples_needed,
    resolvable_binary,
    resolvable_difference,
    resolvable_from_error,
)
from toolkit.statistics.randomisation import paired_randomisation
from toolkit.statistics.sign_flip import SignFlip, sign_flip_test

__all__ = [
    "BootstrapEstimate",
    "Interval",
    "MeanEstimate",
    "PairedDifference",
    "SignFlip",
    "Statistic",
    "bonett_price",
    "can_resolve",
    "cluster_bootstrap",
    "examples_needed",
    "holm",
    "mean_interval",
    "paired_cluster_bootstrap",
    "paired_difference",
    "paired_randomisation",
    "resolvable_binary",
    "resolvable_difference",
    "resolvable_from_error",
    "sign_flip_test",
    "wilson",
]
