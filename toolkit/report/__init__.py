"""Report: the page and the Markdown that a person decides with, read from a run folder only.

    write_report(Path("runs/handbook-1a2b3c4d"))                 # report.html and report.md
    rows = verdict_table(comparison, ledger)                     # the same table, for a terminal
    print(headings(comparison), [as_texts(row) for row in rows])

Importing this package loads neither matplotlib nor jinja2.
"""

from toolkit.report.table import VerdictRow, as_texts, headings, verdict_table
from toolkit.report.write import write_report

__all__ = ["VerdictRow", "as_texts", "headings", "verdict_table", "write_report"]
