"""Pictures of films for the page: Fig. 4 and 5 of three test pairs, chosen by rule."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cgn.config import Config
from cgn.data.pairs import Pairs
from cgn_platform.report.content import Evidence, PageContent, Picture
from cgn_platform.report.facts import Facts
from cgn_platform.report.plot_style import GREY

if TYPE_CHECKING:  # loaded late: torch and matplotlib take seconds
    from matplotlib.figure import Figure

    from cgn.figures import Localisations
    from cgn.images import Images
    from cgn.methods import Method

DPI = 90  # one or two pixels of a picture for each pixel of a film


def draw_pictures(facts: Facts, evidence: Mapping[str, Evidence], pairs: Pairs, page: PageContent) -> None:
    """Add Fig. 4 and 5 of the test pairs with the best, median and worst IoU of the baseline.

    Each network is the one of the first seed that was not trained on the pair. The baseline is shown beside
    the row whose mean AUC differs most from its own.

    Args:
        facts: of the table or sweep.
        evidence: units by row.
        pairs: the cache it ran on.
        page: receives the pictures, or a note if there is no pair with an annotated lesion.
    """
    cases = _choose_cases(evidence.get(facts["baseline"]), pairs)
    if cases is None:
        page.notes.append("No pictures: the baseline has no test pair with an annotated lesion.")
        return
    other = _most_different_row(facts, evidence)
    page.pictures.append(_localisation_picture(facts["baseline"], other, evidence, cases))
    features = _features_picture(evidence[facts["baseline"]], cases)
    if features is not None:
        page.pictures.append(features)


@dataclass(frozen=True)
class _Cases:
    """The test pairs that are shown.

    Attributes:
        pairs: the cache.
        rows: predictions of the baseline for these pairs.
    """

    pairs: Pairs
    rows: Sequence[Mapping[str, Any]]

    @property
    def index(self) -> NDArray[np.int64]:
        """Their places in the cache."""
        return np.array([row["index"] for row in self.rows], np.int64)

    @property
    def films(self) -> tuple[Any, Any, list[Any]]:
        """Targets, references, and annotated lesions."""
        index = self.index
        return self.pairs.target[index], self.pairs.reference[index], [self.pairs.boxes[i] for i in index]


def _choose_cases(baseline: Evidence | None, pairs: Pairs) -> _Cases | None:
    """The pairs with the best, median and worst IoU; None without an annotated lesion."""
    units = [] if baseline is None else baseline.units[0]
    tested = [row for unit in units for row in unit.predictions.to_pylist() if row["iou"] is not None]
    ranked = sorted(tested, key=lambda row: row["iou"])
    if not ranked:
        return None
    ranks = sorted({0, len(ranked) // 2, len(ranked) - 1}, reverse=True)
    return _Cases(pairs, [ranked[rank] for rank in ranks])


def _most_different_row(facts: Facts, evidence: Mapping[str, Evidence]) -> str | None:
    rows = [row for row in facts["rows"] if row.get("difference") and row["name"] in evidence]
    row = max(rows, key=lambda row: abs(row["difference"]["estimate"]), default=None)
    return row and str(row["name"])


def _localisation_picture(
    baseline: str, other: str | None, evidence: Mapping[str, Evidence], cases: _Cases
) -> Picture:
    """Fig. 4. Lesions, activation maps and predicted boxes of the baseline and of another row."""
    from cgn import figures
    from cgn.images import Images

    images = Images(cases.pairs)
    localisations = {"baseline": _localise(evidence[baseline], cases, images)}
    if other is not None:
        localisations["other row"] = _localise(evidence[other], cases, images)
    ious = ", ".join(f"{row['iou']:.2f}" for row in cases.rows)
    names = f"Baseline: {baseline}" + (f"; other row: {other}" if other else "")
    label = (
        "Target, reference, annotated lesions, and activation maps with predicted boxes. "
        f"IoU of the baseline: {ious}. {names}."
    )
    return Picture(_png(figures.fig4(*cases.films, localisations)), label)


def _localise(evidence: Evidence, cases: _Cases, images: "Images") -> "Localisations":
    """Map and box of each case by the network that was not trained on it."""
    from cgn import figures

    single = [
        figures.localisations_of(network, images, np.array([index], np.int64))
        for network, index in zip(_networks(evidence, cases), cases.index, strict=True)
    ]
    return figures.Localisations(
        np.concatenate([case.cams for case in single]), [case.boxes[0] for case in single]
    )


def _features_picture(baseline: Evidence, cases: _Cases) -> Picture | None:
    """Fig. 5. Features of the baseline; None if it generates no counterfactual."""
    import torch

    from cgn import figures
    from cgn.images import Images
    from cgn.methods import Counterfactual

    images, features = Images(cases.pairs), []
    for network, index in zip(_networks(baseline, cases), cases.index, strict=True):
        if not isinstance(network, Counterfactual) or not network.generates:
            return None
        features.append(network.features(images.batch(torch.tensor([index]))))
    titles = ("H_T", "H_R", "H_C", "true H_C")
    maps = {
        title: np.concatenate([figures.strongest(h.cpu().numpy()) for h in column])
        for title, column in zip(titles, zip(*features, strict=True), strict=True)
        if column[0] is not None
    }
    label = (
        "Features of the baseline: target (H_T), reference (H_R), counterfactual (H_C)"
        + (", film without its lesion (true H_C)" if "true H_C" in maps else "")
        + "; each column has its own colour scale. If the counterfactual works, the lesion stands out in H_T "
        "but not in H_C."
    )
    return Picture(_png(figures.fig5(*cases.films, maps)), label)


def _networks(evidence: Evidence, cases: _Cases) -> "Iterator[Method]":
    """For each case, the network of the first seed that was tested on its fold."""
    from cgn.fit import network_of

    units = {unit.identity.fold: unit for unit in evidence.units[0]}
    for row in cases.rows:
        unit = units[row["fold"]]
        config = Config.of({**unit.identity.config, "backbone_weights": "none"})  # weights are in the unit
        yield network_of(config, unit.model())


def _png(figure: "Figure") -> str:
    """As a data URI; transparent, with text that is legible on light and dark."""
    for axes in figure.axes:
        axes.title.set_color(GREY)
        axes.tick_params(colors=GREY)
    for legend in figure.legends:
        for text in (legend.get_title(), *legend.get_texts()):
            text.set_color(GREY)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, transparent=True, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
