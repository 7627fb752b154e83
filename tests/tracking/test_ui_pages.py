"""MLflow's own pages in a browser: a study of 300 trials on 3 scenarios hides no other, and shows its best first."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import charts, needs_chromium, open_page, texts
from many_runs import records_of, value_of, write_runs
from mlflow_servers import empty_database, free_port, server
from small_study import save_npz, small_plan

from study.datasets.images import Images
from tracking.mlflow_log import RunLog
from tracking.ui_address import studies_page, study_page

pytestmark = [pytest.mark.slow, needs_chromium(), pytest.mark.filterwarnings("ignore")]

STUDIES = {"first": 24, "long": 300, "late": 5}
ATTACKS = ("badnets", "blended_random", "sig")
BEGUN = 1_790_000_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[tuple[str, str]]:
    """Of a server with three studies, and the id of their experiment."""
    folder = tmp_path_factory.mktemp("mlflow")
    database = folder / "server.db"
    database.write_bytes(empty_database())
    log = RunLog(f"sqlite:///{database}", "pipd", None)
    dataset = save_npz(folder / "data.npz", images)
    for day, (name, trials) in enumerate(STUDIES.items()):
        plan = small_plan(dataset, folder, name=name, attacks=ATTACKS, trials=trials)
        write_runs(database, log.experiment_id, records_of(plan, folder / name, trials), BEGUN + 86_400 * day)
    port = free_port()
    with server(folder, port):
        yield f"http://127.0.0.1:{port}", log.experiment_id


def name_of(study: str, trial: int) -> str:
    return f"{study} #{trial}" + (" paper default" if trial == 0 else "")


def test_the_list_of_studies_has_all_of_them(address: tuple[str, str], tmp_path: Path) -> None:
    shown = texts(open_page(studies_page(*address), tmp_path))
    rows = [text for text in shown if text in STUDIES]
    assert rows == ["late", "long", "first"], "the last one begun first, and none behind 900 runs of another"
    assert {"objective", "tpr", "fpr", "ca", "asr", "auroc"} <= set(shown)


def test_the_page_of_a_study_has_its_best_trials_first(address: tuple[str, str], tmp_path: Path) -> None:
    shown = texts(open_page(study_page(*address, "long", "overall_score", ascending=False), tmp_path))
    rows = [text for text in shown if text.startswith("long #")]
    mean = {trial: sum(value_of(trial, at) for at in range(3)) for trial in range(300)}
    best = sorted(mean, key=lambda trial: -mean[trial])
    assert rows == [name_of("long", trial) for trial in best[:100]], "100 a page"
    assert {"overall_score", "tpr", "fpr", "ca", "asr", "auroc", "beta", "rounds"} <= set(shown)
    assert "Model training" in shown
    assert "Prompts" not in shown, "the half of the UI for language models"


def test_less_of_an_error_comes_first(address: tuple[str, str], tmp_path: Path) -> None:
    base, experiment = address
    query = "workflowType=machine_learning&orderByKey=metrics.%60asr%60&orderByAsc=true"
    shown = texts(open_page(f"{base}/#/experiments/{experiment}/runs?{query}", tmp_path))
    rows = [text for text in shown if any(text.startswith(study) for study in STUDIES)]
    assert len(rows) == 100
    assert "long" in rows[:20], "the study's own run has what its best trial reached"
    assert all(text in STUDIES or "#" in text for text in rows), "each says by its name which it is"


def test_charts_open_on_what_people_read(address: tuple[str, str], tmp_path: Path) -> None:
    page = study_page(*address, "long", "overall_score", ascending=False)
    titles = charts(open_page(f"{page}&compareRunsMode=CHART", tmp_path / "view"))
    assert titles[:6] == ["tpr", "fpr", "ca", "asr", "auroc", "overall_score"]
    base, experiment = address
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    titles = charts(open_page(f"{base}/#/experiments/{experiment}/runs?{query}", tmp_path / "none"))
    assert titles[0] in ("asr", "auroc"), "also where nobody chose a view"
    assert not any("." in title for title in titles[:5]), "what is for machines comes behind"
