"""Models: CLIP as a classifier of pixels."""
