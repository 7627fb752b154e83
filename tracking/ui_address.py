"""Pages of MLflow's UI: their addresses, and the views that they open, which are tags of the experiment.

MLflow 3 opens an experiment in the half of its UI for language models unless an address says otherwise (it looks at
what was chosen last in this browser, not at the experiment's tag), with a table that shows no metric, and pages of 100
runs, the last ones begun: of a long study they hold runs of that study alone. A view (``Views`` in the UI) has a
filter, an order, columns and charts of its own, so that no study is behind another.
"""

import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from tracking import names

BASE = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens unless it is told otherwise."""

_ALL = "studies"
_SHOWN = (names.TPR, names.FPR, names.CA, names.ASR, names.AUROC)
_RUN_NAME, _SECTION = "attributes.`Run Name`", "Model metrics"  # as the UI calls them
_NAME_WIDTH, _OBJECTIVE_WIDTH, _COLUMN_WIDTH = 210, 100, 80  # px; of its own accord it cuts names of 25 characters


def ui_command(uri: str) -> str:
    """The line that starts MLflow's UI on a database, for a shell; it reports nothing to MLflow's makers."""
    return f"MLFLOW_DISABLE_TELEMETRY=true python -m mlflow ui --backend-store-uri {shlex.quote(uri)}"


def studies_page(base: str, experiment_id: str) -> str:
    """The list of all studies of an experiment, a row each, the last one begun first.

    Args:
        base: address of the UI.
    """
    return _page(base, experiment_id, _ALL)


def study_page(base: str, experiment_id: str, study: str, objective: str, ascending: bool) -> str:
    """The trials of one study, the best first.

    Args:
        base: address of the UI.
        study: its name.
        objective: the metric that it searches for; of several, the first.
        ascending: less of it is better.
    """
    return _page(base, experiment_id, _key(study, objective, ascending))


def _page(base: str, experiment_id: str, view: str) -> str:
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": view})
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def studies_view() -> dict[str, str]:
    """The tag of an experiment that `studies_page` needs, by its name."""
    order = "attributes.start_time"
    metrics = (names.OBJECTIVE, *_SHOWN)
    return _view(_ALL, "All studies", _is("study"), (order, False), metrics, ())


def study_view(study: str, objective: str, ascending: bool, fields: Sequence[str]) -> dict[str, str]:
    """The tag of an experiment that `study_page` needs, by its name.

    Args:
        study, objective, ascending: as there.
        fields: what the study searches: parameters of its trials.
    """
    metrics = (objective, *(name for name in _SHOWN if name != objective))
    order = (_metric(objective), ascending)
    key, name = _key(study, objective, ascending), f"{study}: trials, best first"
    return _view(key, name, f"{_is('trial')} AND {_of(study)}", order, metrics, fields)


def _key(study: str, objective: str, ascending: bool) -> str:
    """A view's key. Studies of one name that search for something else have one each."""
    return hashlib.sha256(repr((study, objective, ascending)).encode()).hexdigest()[:16]


def _view(
    key: str, name: str, condition: str, order: tuple[str, bool], metrics: Sequence[str], fields: Sequence[str]
) -> dict[str, str]:
    """A view as MLflow's UI keeps it in a tag; a part that another version does not know is passed over there.

    Args:
        order: the column that decides it, and whether its lowest value comes first.
        metrics: columns, and charts of a bar a run.
        fields: columns behind them, and axes of one more chart.
    """
    by, ascending = order
    columns = [*map(_metric, metrics), *(f"params.`{field}`" for field in fields)]
    state = {
        "searchFilter": condition,
        "orderByKey": by,
        "orderByAsc": ascending,
        "selectedColumns": columns,
        "columnOrder": [_RUN_NAME, *columns],
        "columnWidths": {
            _RUN_NAME: _NAME_WIDTH,
            **dict.fromkeys(columns, _COLUMN_WIDTH),
            columns[0]: _OBJECTIVE_WIDTH,
        },
        **_charts(metrics, fields),
    }
    return {
        names.TAG_VIEW + key: json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})
    }


def _charts(metrics: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    section = {"uuid": "metrics", "name": _SECTION, "display": True, "isReordered": True, "isGenerated": True}
    known = {"metricSectionId": section["uuid"], "deleted": False, "isGenerated": True}
    cards: list[dict[str, Any]] = [
        {
            **known,
            "type": "BAR",
            "uuid": f"bar-{name}",
            "metricKey": name,
            "displayName": name,
            "runsCountToCompare": 10,
        }
        for name in (*_SHOWN, *metrics[: metrics[0] not in _SHOWN])
    ]
    if fields:
        axes = {"selectedParams": list(fields), "selectedMetrics": list(metrics[:1]), "showAllRuns": True}
        cards.append({**known, **axes, "type": "PARALLEL", "uuid": "parallel", "isGenerated": False})
    return {"compareRunCharts": cards, "compareRunSections": [section], "isAccordionReordered": True}


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _is(kind: str) -> str:
    return f"tags.`{names.TAG_KIND}` = '{kind}'"


def _of(study: str) -> str:
    """The filter of a study's runs. MLflow has no way to write a quote within quotes: there any character will do."""
    if "'" not in study:
        return f"tags.`{names.TAG_STUDY}` = '{study}'"
    pattern = study.replace("'", "_")
    return f"tags.`{names.TAG_STUDY}` LIKE '{pattern}'"
