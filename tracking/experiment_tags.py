"""Tags of an experiment, which make its pages in MLflow's UI readable. Nothing depends on them."""

from collections.abc import Mapping
from typing import Any

from tracking import names
from tracking.refusals import passes
from tracking.ui_address import studies_page, studies_view

NOTE = "A row for each study: [all studies]({page}). *Views*, above, has the trials of each study, best first."


def mark_experiment(client: Any, experiment_id: str) -> None:
    """Marks an experiment as model training, with a page that lists its studies; what others set stays.

    Args:
        client: an ``MlflowClient``.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    page = studies_page("", experiment_id).removeprefix("/")
    own = {names.TAG_EXPERIMENT_KIND: names.MODEL_TRAINING, names.TAG_NOTE: NOTE.format(page=page)}
    held = client.get_experiment(experiment_id).tags
    set_tags(client, experiment_id, {name: value for name, value in own.items() if name not in held})
    set_tags(client, experiment_id, studies_view())


def set_tags(client: Any, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Sets the tags that an experiment does not have; a server that takes runs and refuses tags is let be.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    held = client.get_experiment(experiment_id).tags if tags else {}
    for name, value in tags.items():
        try:
            if held.get(name) != value:
                client.set_experiment_tag(experiment_id, name, value)
        except Exception as error:
            if passes(error):
                raise
