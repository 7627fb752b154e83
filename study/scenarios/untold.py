"""Why metrics of a scenario are dashes, or cover other images than elsewhere: what a given set's file does not tell."""

from collections.abc import Mapping

from tracking import names


def untold(attack: str, metrics: Mapping[str, float | None]) -> list[str]:
    """A line for each gap; none for an attack that is ours, which tells everything.

    Args:
        attack: as a scenario has it.
        metrics: of any configuration on it; undefined ones are None or left out.
    """
    if attack.partition(":")[0] != "given":
        return []
    known = {name for name, value in metrics.items() if value is not None}
    lines = []
    if names.FLAGGED_SHARE in known and known.isdisjoint((names.TPR, names.FPR)):
        lines.append("TPR, FPR and AUROC are unknown: the file has no poison_mask, so nobody knows what is poisoned")
    if names.ASR_UNDEFENDED in known:
        lines.append(
            "ASR counts the file's triggered test images, those of the target class too, unless "
            "test_triggered_original_labels tells which these are"
        )
    else:
        lines.append("ASR is unknown: the file has no test_triggered_images")
    return lines
