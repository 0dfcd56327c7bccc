"""Pictures of films are chosen by rule."""

import re
from typing import Any

from cgn.data.pairs import Pairs
from cgn_platform.report.page import render
from cgn_platform.store.ledger import Ledger


def test_best_median_and_worst_pair_of_the_baseline_are_shown(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    page = render(table, ledger, pairs)
    sources = re.findall(r'<img src="(data:image/png;base64,[^"]+)"', page)
    assert len(sources) == 2  # Fig. 4, and Fig. 5 since the baseline generates a counterfactual
    baseline = next(row for row in table["rows"] if row["name"] == table["baseline"])
    ious = [iou for name in baseline["units"][0] for iou in ledger.open(name).predictions["iou"].to_pylist()]
    ranked = sorted(iou for iou in ious if iou is not None)
    chosen = [ranked[-1], ranked[len(ranked) // 2], ranked[0]]
    assert f"IoU of the baseline: {', '.join(f'{iou:.2f}' for iou in chosen)}." in page
    assert "Baseline: AdaIN-GAN / ✓; other row: SBF / ×." in page


def test_without_the_baseline_there_are_no_pictures(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    page = render({**table, "baseline": "none"}, ledger, pairs)
    assert "No pictures: the baseline has no test pair with an annotated lesion." in page
    assert "<img" not in page
