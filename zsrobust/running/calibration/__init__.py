"""Calibration: whether a set-up measures what it should, in stages, the cheapest first.

`setup` is what is examined. `stages` has the stages, and `stored` what they compare with.
"""
