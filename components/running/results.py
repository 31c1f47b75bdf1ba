"""Where a finished run's results are, for people."""

from __future__ import annotations

from components.faults import DataFault
from components.storage.layout import STAGES, Layout


def results(layout: Layout) -> list[str]:
    """Return one line each for report, metrics and release.

    Raises:
        DataFault: the pipeline has not run to its end.
    """
    places = {
        "report": layout.artifact("evaluate") / "report.html",
        "audit": layout.artifact("audit") / "report.html",
        "metrics": layout.metrics("evaluate"),
        "model": layout.artifact("register"),
    }
    missing = [str(path) for path in places.values() if not path.exists()]
    if missing or not all(layout.metrics(stage).is_file() for stage in STAGES):
        raise DataFault(f"{(missing or ['a stage of metrics/'])[0]} not found: `dvc repro` makes it")
    return [f"{name:<8}{path}" for name, path in places.items()]
