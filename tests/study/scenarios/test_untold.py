"""What a given set's file does not tell is said below the tables and in reports, and of no other attack."""

from pathlib import Path

from written_study import write_study

from study.analysis.results import read_results
from study.report.sections.closing import Closing
from study.report.sections.summary import sections
from study.scenarios.untold import untold

NO_MASK = "TPR, FPR and AUROC are unknown: the file has no poison_mask, so nobody knows what is poisoned"
NO_ASR = "ASR is unknown: the file has no test_triggered_images"


def test_each_gap_has_its_reason() -> None:
    assert untold("given:file=/a/b.npz", {"flagged_share": 0.1, "ca": 0.9}) == [NO_MASK, NO_ASR]
    assert untold("given", {"ca": 0.9, "asr": None, "asr_undefended": None}) == [NO_ASR]  # it flags nothing
    (of_asr,) = untold("given", {"flagged_share": 0.1, "tpr": 1.0, "fpr": None, "asr_undefended": 1.0})
    assert of_asr.startswith("ASR counts the file's triggered test images, those of the target class too, unless")
    assert untold("badnets", {}) == untold("clean", {"flagged_share": 0.1, "fpr": 0.1}) == []


def test_a_study_tells_it_with_the_scenarios(tmp_path: Path) -> None:
    cells = {("given", 0.0, seed): {"flagged_share": 0.1, "ca": 0.9, "asr_undefended": None} for seed in (0, 1)}
    cells |= {("badnets", 0.1, 0): {"flagged_share": 0.1, "tpr": 1.0, "fpr": 0.0, "ca": 0.9}}
    folder = write_study(tmp_path / "mine", [(0.9, cells)], objective="ca")
    results = read_results(folder.parent, folder.name)
    text = Closing(results).text()
    (summary,) = sections(results)
    for line in (NO_MASK, NO_ASR):
        told = f"given-0-s0, given-0-s1: {line}"
        assert " ".join(text.split()).count(told) == 1
        assert [getattr(item, "text", "") for item in summary.items].count(told) == 1
