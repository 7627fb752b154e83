"""No attack: the control. A defense should flag nothing here, and nothing here can be a success."""

from study.attacks.api import Attack


class Clean(Attack):
    """The dataset as it is."""

    name = "clean"
    poisons = False
