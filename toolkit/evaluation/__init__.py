"""Evaluation: metrics by kind of answer, the score table and the usage table.

    metrics = metrics_for(task.metrics, task.contract)
    rows = score_outputs("rag", "smollm2", "generation", None, task.test, outputs, metrics, task.contract)
    write_scores(rows, Path("scores.parquet"))

Importing this package loads neither numpy nor pyarrow.
"""

from toolkit.evaluation.metric import Metric, Scored
from toolkit.evaluation.metrics import METRICS, metrics_for
from toolkit.evaluation.table import (
    MetricArrays,
    ScoreRow,
    arrays,
    primary_value,
    read_scores,
    score_outputs,
    write_scores,
)
from toolkit.evaluation.usage import UsageRow, read_usage, usage_rows, write_usage

__all__ = [
    "METRICS",
    "Metric",
    "MetricArrays",
    "ScoreRow",
    "Scored",
    "UsageRow",
    "arrays",
    "metrics_for",
    "primary_value",
    "read_scores",
    "read_usage",
    "score_outputs",
    "usage_rows",
    "write_scores",
    "write_usage",
]
