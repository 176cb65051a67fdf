"""Sources: where the images of a dataset come from, and in which formats."""
