"""Tasks: examples, answer contracts, splits, and the doctor that checks them."""
