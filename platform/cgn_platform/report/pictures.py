"""Pictures of films for the report."""

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cgn.config import Config
from cgn_platform.report import charts
from cgn_platform.report.content import Evidence, Page, Picture, prediction_rows
from cgn_platform.report.facts import Facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgn.data.pairs import Pairs


DPI = 90  # of pictures: a film's pixel is a pixel or two


def draw_pictures(facts: Facts, evidence: Mapping[str, Evidence], pairs: "Pairs", page: Page) -> None:
    """Fig. 4 and 5 of three test pairs, chosen by rule: the best, median and worst IoU of the baseline.

    Networks are those of the first seed that were not trained on the pair. Beside the baseline stands the
    row whose mean AUC lies farthest from its own.
    """
    import torch

    from cgn import figures
    from cgn.fit import Images, network_of
    from cgn.methods import Counterfactual

    baseline = evidence.get(facts["baseline"])
    tested = [] if baseline is None else prediction_rows(baseline.units[0])
    ranked = sorted((row for row in tested if row["iou"] is not None), key=lambda row: row["iou"])
    if not ranked:
        page.notes.append("No pictures: the baseline has no test pair with a marked lesion.")
        return
    chosen = [ranked[i] for i in sorted({0, len(ranked) // 2, len(ranked) - 1}, reverse=True)]
    images, index = Images(pairs), np.array([row["index"] for row in chosen], np.int64)
    shown = pairs.target[index], pairs.reference[index], [pairs.boxes[i] for i in index]
    places, features = {}, []
    for title, name in {"baseline": facts["baseline"], "other row": _farthest(facts, evidence)}.items():
        if name is None:
            continue
        units = {unit.identity.fold: unit for unit in evidence[name].units[0]}
        found = []
        for row, i in zip(chosen, index, strict=True):
            unit = units[row["fold"]]
            config = Config.of({**unit.identity.config, "backbone_weights": "none"})
            network, alone = network_of(config, unit.model()), np.array([i], np.int64)
            found.append(figures.localisations_of(network, images, alone))
            if title == "baseline" and isinstance(network, Counterfactual) and network.generates:
                features.append(network.features(images.batch(torch.from_numpy(alone))))
        cams = np.concatenate([place.cams for place in found])
        places[title] = figures.Localisations(cams, [place.boxes[0] for place in found])
    ious = ", ".join(f"{row['iou']:.2f}" for row in chosen)
    other = _farthest(facts, evidence)
    told = f"baseline: {facts['baseline']}" + (f"; other row: {other}" if other else "")
    label = f"Target, reference, lesions, and where the networks look. IoU of the baseline: {ious}. {told}."
    page.pictures.append(Picture(_png(figures.fig4(*shown, places)), label))
    if len(features) == len(chosen):
        titles = ("H_T", "H_R", "H_C", "true H_C")
        maps = {
            title: np.concatenate([figures.strongest(h.cpu().numpy()) for h in column])
            for title, column in zip(titles, zip(*features, strict=True), strict=True)
            if column[0] is not None
        }
        label = (
            "Features of the baseline: of the target (H_T), of the reference (H_R), counterfactual (H_C)"
            + (", and of the film without its lesion (true H_C)" if "true H_C" in maps else "")
            + "; one scale of brightness a row. Where the counterfactual works, the lesion is dark in H_C."
        )
        page.pictures.append(Picture(_png(figures.fig5(*shown, maps)), label))


def _farthest(facts: Facts, evidence: Mapping[str, Evidence]) -> str | None:
    rows = [row for row in facts["rows"] if row.get("difference") and row["name"] in evidence]
    row = max(rows, key=lambda row: abs(row["difference"]["estimate"]), default=None)
    return row and str(row["name"])


def _png(figure: "Figure") -> str:
    """Without a background, and with titles that can be read on light and dark."""
    for axes in figure.axes:
        axes.title.set_color(charts.GREY)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, transparent=True, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
