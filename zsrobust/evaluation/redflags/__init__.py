"""Red flags: signs that a number flatters its defense, measured on a small sample."""
