"""Evaluation: the referee, which decides who survived, and the red flags of what it found."""
