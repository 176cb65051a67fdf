"""The embedded suite: a world of small pictures, a CLIP trained on it, 16 datasets."""
