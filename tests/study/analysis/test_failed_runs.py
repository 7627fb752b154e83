"""Which runs failed, by the stated rule, and where tables and sentences tell it."""

from pathlib import Path
from typing import Any

import pytest
from small_results import small_results
from written_study import write_study

from study.analysis.compared import compared_configurations
from study.analysis.failed_runs import count_failed, failed, failure_caveats
from study.analysis.results import Results, load_results, read_results
from study.analysis.selected_trial import select_trial
from study.compare import main as compare
from study.report.results_csv import results_csv
from study.report.sections.closing import Closing
from study.report.sections.contents import sections
from study.report.sections.front_table import front_table
from study.report.text import headline, section_text


def run(tpr: float | None, auroc: float | None, **more: Any) -> dict[str, Any]:
    return {"trial": 0, "attack": "badnets", "tpr": tpr, "auroc": auroc, "fpr": 0.0, **more}


@pytest.mark.parametrize(
    ("tpr", "auroc", "is_failed"),
    [
        (1.0, 1.0, False),
        (0.5, 0.7, False),
        (0.499, 1.0, True),
        (1.0, 0.699, True),
        (0.9, None, False),
        (0.4, None, True),
        (None, 0.6, True),
    ],
)
def test_the_rule(tpr: float | None, auroc: float | None, is_failed: bool) -> None:
    assert failed(small_results([run(tpr, auroc)]).evaluations).tolist() == [is_failed]


def test_where_the_rule_says_nothing_a_run_counts_neither_way() -> None:
    cells = [run(None, None), run(0.0, 0.1, seed=1, attack_failed=True), run(0.0, 0.1, seed=2), run(1.0, 1.0, seed=3)]
    counts = count_failed(small_results(cells).evaluations)
    assert (counts.text, counts.two_outcomes) == ("1 of 2", True)
    assert count_failed(small_results(cells[:2]).evaluations).text is None


def reached(tpr: float, asr: float = 0.0) -> dict[str, float]:
    return {"tpr": tpr, "fpr": 0.01, "auroc": (1 + tpr) / 2, "ca": 0.9, "asr": asr, "flagged_share": 0.1 * tpr}


def study(out: Path, seeds: int, repeats: int, lost: float = 0.02) -> Results:
    """The paper's default loses badnets in its last repeat of the last seed; trial 1 never does."""
    last = (seeds - 1, repeats - 1)

    def of_default(attack: str, seed: int, repeat: int) -> dict[str, float]:
        return reached(lost, 1.0) if attack == "badnets" and (seed, repeat) == last else reached(0.99 - 0.01 * seed)

    runs = [(attack, 0.1, s, r) for attack in ("badnets", "sig") for s in range(seeds) for r in range(repeats)]
    trials = [
        (0.8, {run: of_default(run[0], run[2], run[3]) for run in runs}),
        (0.9, {run: reached(0.98 - 0.01 * run[3]) for run in runs}),
    ]
    options: dict[str, Any] = {"seeds": list(range(seeds)), "attacks": ["badnets", "sig"], "repeats": repeats}
    folder = write_study(out / "told", trials, **options)
    return load_results(folder, out)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two seeds with three repeats of each."""
    return study(tmp_path_factory.mktemp("repeated"), 2, 3)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One seed with three repeats."""
    return study(tmp_path_factory.mktemp("one_seed"), 1, 3)


def test_a_mean_that_hides_two_outcomes_says_so_with_both(repeated: Results) -> None:
    (sentence,) = failure_caveats(repeated)
    assert sentence == (
        "The paper's default failed in 1 of 12 runs (TPR below 0.5 or AUROC below 0.7), so its mean hides two "
        "outcomes: TPR 0.020, FPR 0.010, ASR 1.000 where it failed, and TPR 0.985, FPR 0.010, ASR 0.000 where it did "
        "not."
    )


def test_the_last_screen_tells_both_spreads_and_the_runs_that_failed(repeated: Results) -> None:
    text = Closing(repeated).text()
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "attack and rate model TPR FPR AUROC CA ASR failed runs" in lines
    default = next(line for line in lines if line.startswith("paper default 0.8"))
    assert default.startswith("paper default 0.825±0.233/0.392 "), "means 0.99 and 0.66; 0.98, 0.98 and 0.02 in one"
    assert default.endswith("1 of 6")
    assert any(line.startswith("mean of all paper default 0.") and line.endswith("1 of 12") for line in lines)
    assert "over 2 poisonings (seeds) / over 3 repeats on the same poisoned data" in " ".join(text.split())
    assert "so its mean hides two outcomes" in " ".join(text.split())


def test_with_one_seed_the_deviation_is_that_of_repeats_alone(one_seed: Results) -> None:
    text = " ".join(Closing(one_seed).text().split())
    assert "One seed; mean ± standard deviation over 3 repeats on the same poisoned data." in text
    assert "0.667±0.560" in text
    assert "1 of 3" in text


def test_seeds_alone_read_as_before_unless_a_run_failed(tmp_path: Path) -> None:
    studies = [study(tmp_path / name, 3, 1, tpr) for name, tpr in (("a", 0.9), ("b", 0.1))]
    held, lost = (Closing(results).text() for results in studies)
    rows = [front_table(results, compared_configurations(results)).rows for results in studies]
    assert ["failed runs" in {row[1] for row in of_study} for of_study in rows] == [False, True]
    assert "failed runs" not in held
    assert "repeat" not in held
    assert "1 of 3" in lost
    assert "failed in 1 of 6 runs" in " ".join(lost.split())


def test_one_run_of_each_has_no_mean_that_could_hide_anything(tmp_path: Path) -> None:
    results = study(tmp_path, 1, 1)
    assert failure_caveats(results) == []
    assert "failed runs" not in Closing(results).text()


def test_the_front_page_has_a_row_of_failed_runs(repeated: Results) -> None:
    page = sections(repeated)
    outcome = next(item for item in page[0].items if getattr(item, "name", "") == "outcome")
    rows = [row for row in outcome.rows if row[1] == "failed runs"]
    assert [row[2:4] for row in rows] == [(None, "1 of 12"), (None, "1 of 6"), (None, "0 of 6")]
    assert outcome.caption.startswith("Mean ± standard deviation over 2 poisonings (seeds) / over 3 repeats")
    texts = " ".join(getattr(item, "text", "") for item in page[0].items)
    assert "A repeat is one more training on the same poisoned data, with other seeds." in texts
    assert "hides two outcomes" in texts
    robust = next(section for section in page if section.name == "robustness")
    assert "1 of 6" in section_text(robust)
    assert "hides two outcomes" in " ".join(headline(repeated).split())


def test_the_csv_has_a_line_a_run(one_seed: Results) -> None:
    header, *lines = (line.split(",") for line in results_csv(one_seed).splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    of_default = [(row["scenario"], row["repeat"], row["failed_run"]) for row in rows[:3]]
    assert of_default == [
        ("badnets-0.1-s0", "0", "0"),
        ("badnets-0.1-s0-r1", "1", "0"),
        ("badnets-0.1-s0-r2", "2", "1"),
    ]


def test_compare_tells_failed_runs_and_both_spreads(repeated: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(["told:default", "told:best", "--out", str(repeated.folder.parent)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A minus B over 4 scenarios" in text
    assert "badnets-0.1 1 of 6 0 of 6" in text
    assert "A (the paper's default) failed in 1 of 12 runs" in text
    assert "A ± over poisonings A ± over repeats" in text
    assert "they are averaged first" in text


def test_names_of_repeats_are_understood_where_no_manifest_tells_their_parts(tmp_path: Path) -> None:
    study(tmp_path, 1, 2)
    path = tmp_path / "told" / "study.json"
    path.write_text(path.read_text().replace('"parts"', '"forgotten"'))
    results = read_results(tmp_path, "told")
    assert results.repeats == 2
    assert set(results.evaluations["poisoning"]) == {"badnets-0.1-s0", "sig-0.1-s0"}
    assert set(results.evaluations["stratum"]) == {"badnets-0.1", "sig-0.1"}
    assert select_trial(results).trial == 0
