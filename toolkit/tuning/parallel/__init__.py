"""Several processes: one training shared by all, and a run whose first process goes the rest of the road alone."""
