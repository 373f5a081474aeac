"""Runs: a recipe carried through (`run.py`), the folder it leaves, and finished runs opened again (`reopen.py`)."""
