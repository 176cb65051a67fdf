"""A user's script, which mypy checks with the package: what `zsrobust` returns has types."""

from typing import assert_type

import pandas as pd

import zsrobust

one = zsrobust.evaluate("clip", dataset="mini_shapes", eps=4 / 255, limit=32, progress=False)
assert_type(one, zsrobust.Result)
assert_type(one.robust_accuracy, float)
assert_type(one.robust_interval, tuple[float, float])
assert_type(repr(one), str)

several = zsrobust.evaluate("clip", dataset=["mini_shapes", "mini_flags"], results="runs")
assert_type(several, zsrobust.Results)
assert_type(several[0], zsrobust.Result)
assert_type(several[1:], zsrobust.Results)
assert_type(several.frame, pd.DataFrame)
assert_type(zsrobust.evaluate("clip", dataset="mini_shapes", seed=range(3)), zsrobust.Results)
assert_type(
    zsrobust.evaluate("clip", dataset="mini_shapes", eps=(1 / 255, 2 / 255)), zsrobust.Results
)
assert_type([each.clean_correct for each in several], list[int])

diagnosis = zsrobust.diagnose("clip", dataset="mini_shapes")
assert_type(diagnosis, zsrobust.Diagnosis)
assert_type(diagnosis.passes, bool)
assert_type(diagnosis.reasons, list[str])
assert_type(zsrobust.load_results("runs"), pd.DataFrame)
