"""What the words of the field mean, in a line each, for where a newcomer meets them first."""

METRICS = (
    "TPR and FPR: the shares of poisoned and of clean training samples that the defense flags. CA: accuracy on clean "
    "test images. ASR: the share of test images with the trigger that get the attacker's class."
)
STUDY = "A trial is one configuration of the defense, run on every scenario: an attack with a poison rate and a seed."
