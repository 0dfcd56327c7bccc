from dataclasses import replace
from typing import Any

from cgn.statistics import Interval
from cgn_platform.tracking.descriptions import describe_sweep


def test_a_sweep_shows_its_five_best_trials_with_intervals_and_links(sweep: Any) -> None:
    records = [
        replace(
            sweep.record(n, "complete", 0.6 + n / 100, units=[str(n)], **sweep.FACTS),
            params={"alpha": n / 10},
        )
        for n in range(7)
    ]
    text = describe_sweep(
        [*records, sweep.record(7, "pruned")],
        info=sweep.INFO,
        page="#/page",
        attached=False,
        test_interval=lambda units: Interval(0.65, 0.5, 0.8) if units == ["6"] else None,
    )
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 6", "| 5", "| 4", "| 3", "| 2"]
    assert lines[2] == "| 6 | 0.660 | 0.650 [0.500, 0.800] | - | alpha 0.6 |"
    assert lines[3] == "| 5 | 0.650 | 0.650 | - | alpha 0.5 |"
    assert text.startswith(
        "Trial 6 was chosen by its validation AUC. "
        "Test AUC: 0.650 [0.500, 0.800], not distinguishable from chance. Validation AUC: 0.660; this is "
    )
    assert text.index("Test AUC: 0.650") < text.index("0.660")
    assert "\n\n7 complete, 1 pruned, 0 failed; pruning saved 0% of the epochs." in text
    assert "[The trials side by side](#/page). `cgn report smoke` makes a page of charts" in text
    assert text.endswith("Ran on phantom: cache `c0ffee`.")


def test_the_report_is_mentioned_once_it_is_attached_and_never_where_there_cannot_be_one(sweep: Any) -> None:
    attached, impossible = (
        describe_sweep([], info=sweep.INFO, page="#/page", attached=attached) for attached in (True, None)
    )
    assert "The report is the artifact `report.html`." in attached
    assert "report" not in impossible
