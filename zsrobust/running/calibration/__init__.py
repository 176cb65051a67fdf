"""Calibration: whether a set-up measures what it should, in stages, the cheapest first.

`stages` has the stages, and `stored` the values that they compare with.
"""
