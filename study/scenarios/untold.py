"""Why metrics of a scenario are dashes, or cover other images than elsewhere: what is not known of received data."""

from collections.abc import Mapping

from study.config.objectives import is_clean, is_given
from tracking import names


def untold(attack: str, metrics: Mapping[str, float | None]) -> list[str]:
    """A line for each gap; none for an attack that is ours, which tells everything.

    Own data in which nothing was planted may hold anybody's poison, as a given set without a mask.

    Args:
        attack: as a scenario has it.
        metrics: of any configuration on it; undefined ones are None or left out.
    """
    known = {name for name, value in metrics.items() if value is not None}
    unjudged = names.FLAGGED_SHARE in known and known.isdisjoint((names.TPR, names.FPR))
    if is_clean(attack) and unjudged:
        return ["TPR, FPR and AUROC are unknown: nobody knows whether some of these images are poisoned"]
    if not is_given(attack):
        return []
    lines = []
    if unjudged:
        lines.append("TPR, FPR and AUROC are unknown: the file has no poison_mask, so nobody knows what is poisoned")
    if names.ASR_UNDEFENDED in known:
        lines.append(
            "ASR counts the file's triggered test images, those of the target class too, unless "
            "test_triggered_original_labels tells which these are"
        )
    else:
        lines.append("ASR is unknown: the file has no test_triggered_images")
    return lines
