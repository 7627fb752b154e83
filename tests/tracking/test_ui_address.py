"""Addresses of MLflow's pages, and what they open: the filters and orders of views mean in MLflow what they say."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import empty_database

from tracking import names
from tracking.experiment_tags import mark_experiment
from tracking.mlflow_log import RunLog
from tracking.outbox import Record
from tracking.ui_address import studies_page, studies_view, study_page, study_view

pytestmark = pytest.mark.filterwarnings("ignore")

ODD = "x.given-it's_100%-s0"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    """Three studies: two trials and a scenario each; the second trial is better."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    database.write_bytes(empty_database())
    found = RunLog(f"sqlite:///{database}", "pipd", None)
    for study in ("a", "a.b", ODD):
        own = {names.TAG_STUDY: study}
        found.take(Record(f"study/{study}", None, study, 1_000, tags={**own, names.TAG_KIND: "study"}))
        for trial, asr in enumerate((0.5, 0.25)):
            name, kind = f"{study} #{trial}", {names.TAG_KIND: "trial"}
            run, metrics = f"trial/{study}/{trial}", {"asr": asr}
            found.take(Record(run, f"study/{study}", name, 2_000 + trial, tags={**own, **kind}, metrics=metrics))
        tags = {**own, names.TAG_KIND: "scenario"}
        found.take(Record(f"scenario/{study}", f"trial/{study}/0", "s", 3_000, tags=tags, metrics={"asr": 0.0}))
    return found


def state(view: dict[str, str]) -> dict[str, Any]:
    """What a view opens, as MLflow's UI reads it."""
    (text,) = view.values()
    envelope = json.loads(text)
    assert isinstance(envelope["name"], str)
    assert isinstance(envelope["createdAt"], int)
    opened: dict[str, Any] = json.loads(envelope["state"])
    return opened


def runs(log: RunLog, opened: dict[str, Any]) -> list[str]:
    order = f"{opened['orderByKey']} {'ASC' if opened['orderByAsc'] else 'DESC'}"
    found = log.client.search_runs([log.experiment_id], opened["searchFilter"], order_by=[order])
    return [run.info.run_name for run in found]


@pytest.mark.parametrize("study", ["a", "a.b", ODD])
def test_a_study_s_view_has_its_trials_alone_and_the_best_first(study: str, log: RunLog) -> None:
    opened = state(study_view(study, "asr", True, ("beta",)))
    assert runs(log, opened) == [f"{study} #1", f"{study} #0"]
    assert opened["selectedColumns"][0] == "metrics.`asr`"
    assert opened["selectedColumns"][-1] == "params.`beta`"
    assert [card["metricKey"] for card in opened["compareRunCharts"][:-1]] == ["tpr", "fpr", "ca", "asr", "auroc"]
    assert opened["compareRunCharts"][-1]["selectedParams"] == ["beta"]


def test_the_view_of_all_studies_has_a_row_each(log: RunLog) -> None:
    assert sorted(runs(log, state(studies_view()))) == ["a", "a.b", ODD]


def test_an_address_names_the_view_that_it_opens() -> None:
    view = study_view("a", "asr", True, ("beta",))
    (tag,) = view
    key = tag.removeprefix(names.TAG_VIEW)
    query = f"workflowType=machine_learning&viewStateShareKey={key}"
    assert study_page("http://h:5000/", "3", "a", "asr", True) == f"http://h:5000/#/experiments/3/runs?{query}"
    assert studies_page("http://h", "3").endswith("runs?workflowType=machine_learning&viewStateShareKey=studies")
    assert set(studies_view()) == {names.TAG_VIEW + "studies"}
    others = [study_view("a", "ca", True, ()), study_view("b", "asr", True, ()), study_view("a", "asr", False, ())]
    assert len({key for other in (view, *others) for key in other}) == 4


def test_a_view_fits_into_a_tag() -> None:
    (text,) = study_view("x" * 200, "overall_score", False, [f"a_long_field_{at}" for at in range(30)]).values()
    assert len(text) < 5_000 * 2, "MLflow takes 20,000"


def test_an_experiment_of_an_earlier_version_is_marked(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = RunLog(uri, "other", None).client
    known = client.create_experiment("pipd", (tmp_path / "art").as_uri(), {names.TAG_NOTE: "my own words"})
    log = RunLog(uri, "pipd", (tmp_path / "art").as_uri())
    tags = client.get_experiment(known).tags
    assert log.experiment_id == known
    assert tags[names.TAG_EXPERIMENT_KIND] == names.MODEL_TRAINING
    assert tags[names.TAG_NOTE] == "my own words"
    assert studies_view().items() <= tags.items()
    other = client.get_experiment_by_name("other")
    page = studies_page("", other.experiment_id).removeprefix("/")
    assert f"]({page})" in other.tags[names.TAG_NOTE], "an address within the UI, wherever that is"


def test_a_view_that_a_record_brings_is_kept(log: RunLog) -> None:
    view = study_view("a", "asr", True, ())
    log.take(Record("study/a", None, "a", 4_000, views=view))
    assert view.items() <= log.client.get_experiment(log.experiment_id).tags.items()


class Refusing:
    """A client of a server that lets its user log runs and not change experiments."""

    def __init__(self, code: str) -> None:
        self.error = Exception("no")
        self.error.error_code = code  # type: ignore[attr-defined]

    def get_experiment(self, _experiment: str) -> Any:
        return type("Experiment", (), {"tags": {}})

    def set_experiment_tag(self, *_what: str) -> None:
        raise self.error


def test_a_server_that_refuses_tags_is_let_be_and_an_outage_is_told() -> None:
    mark_experiment(Refusing("PERMISSION_DENIED"), "1")
    with pytest.raises(Exception, match="no"):
        mark_experiment(Refusing("TEMPORARILY_UNAVAILABLE"), "1")


def test_what_people_read_has_no_prefix() -> None:
    for name in ("tpr", "fpr", "auroc", "ca", "asr", "overall_score", "objective"):
        assert names.in_mlflow(name) == name
    assert names.in_mlflow("cost/wall_seconds") == "system/cost.wall_seconds"
    assert names.in_mlflow(names.signal("loss_gap")) == "system/signal.loss_gap"
    assert names.in_mlflow("asr_undefended") == "system/asr_undefended"
    assert (names.in_mlflow("ca_folded"), names.in_mlflow("ca_folded", "ca_folded")) == (
        "system/ca_folded",
        "ca_folded",
    )
