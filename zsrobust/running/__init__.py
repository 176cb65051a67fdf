"""Running: which cells, in which order, by whom."""
