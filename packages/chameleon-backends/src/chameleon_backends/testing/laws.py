"""How the suites draw their examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in each run, and no time limit: the first call of a kernel may compile it.
LAWS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
