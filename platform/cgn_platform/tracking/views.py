"""The shared view of a sweep or table in MLflow's UI: runs, columns and charts, in their order.

MLflow's UI reads it from a tag of the experiment, in the format that it uses for views shared by address.
"""

from typing import Any

from cgn_platform.tracking.events import RunInfo

VIEW = "mlflow.sharedViewState."
"""Beginning of the tags that hold shared views; the rest is the key in a view's address."""
EPOCHS = "Model metrics"
"""The section in which MLflow puts metrics without a slash: here the mean validation AUC and the losses."""
RESULTS = "Results"


def shared_view(info: RunInfo, run: str) -> dict[str, Any]:
    """The child runs of a parent, the best first, with the columns and charts to compare by.

    Args:
        info: of the parent.
        run: the id of the parent run.
    """
    table = info.kind == "table"
    ranked_by = "test_auc" if table else "best_val_auc"
    results = [ranked_by, "best_val_auc" if table else "test_auc", "test_auc_low", "test_auc_high"]
    results += ["difference", "difference_low", "difference_high"] if table else []
    results += ["localization_error", "seconds"]
    folds = [f"fold_{fold}" for fold in range(info.folds)]
    columns = ["tags.`cgn.state`", *(f"metrics.`{name}`" for name in results)]
    columns += [f"metrics.`{fold}/test_auc`" for fold in folds]
    columns += [f"params.`{name}`" for name in info.params if name != "sampler_seed"]
    columns += ["tags.`cgn.words`"] if table else []
    charts = [_chart(name, RESULTS) for name in results] + [_chart("val_auc", EPOCHS)]
    return {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{run}"',
        "orderByKey": f"metrics.`{ranked_by}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": charts,
        "compareRunSections": [
            _section(RESULTS),
            _section(EPOCHS),
            *(_section(fold, False) for fold in folds),
        ],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name, folds first
    }


def _section(name: str, opened: bool = True) -> dict[str, Any]:
    """MLflow adds charts of all other metrics to the section of their name's first part, by itself."""
    return {
        "uuid": f"cgn-{name}",
        "name": name,
        "display": opened,
        "isReordered": True,
        "deleted": False,
        "isGenerated": True,
    }


def _chart(metric: str, section: str) -> dict[str, Any]:
    """A bar for each run; MLflow draws lines instead if the metric has several steps."""
    return {
        "uuid": f"cgn-{metric}",
        "type": "BAR",
        "metricKey": metric,
        "displayName": metric,
        "metricSectionId": f"cgn-{section}",
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": True,
    }
