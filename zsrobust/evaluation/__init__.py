"""Evaluation: the referee decides which images survived; red flags mark doubtful numbers."""
