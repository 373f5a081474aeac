"""Comparison: from the score table to verdicts, and the contract that refuses what is not comparable."""
