"""Running: plan the cells, estimate their cost, compute the missing ones."""
