"""The labels of Quarantine Training: how much of each lies on the quarantine class, and how that moves."""

import torch
from torch import Tensor

from defenses.api import Params


class QuarantineLabels:
    """epsilon of every sample, and how it moves (section III.C and Algorithm 1).

    Args:
        labels: int64 [N].
        num_classes: K.
        pre_quarantine: bool [N], the samples that start in quarantine.
        params: the fields of `QTConfig` that start with ``epsilon`` or ``release``, and the phases.

    Attributes:
        epsilon: float32 [N].
        multiplied: bool [N], pre-quarantine samples whose label is multiplied in the coming epoch.
        released: bool [K], the classes that have been released.
    """

    def __init__(self, labels: Tensor, num_classes: int, pre_quarantine: Tensor, params: Params) -> None:
        self.labels = labels
        self.counts = torch.bincount(labels, minlength=num_classes)
        self.pre_quarantine = pre_quarantine
        self.params = params
        self.epsilon = torch.full(labels.shape, params.epsilon_init, device=labels.device)
        self.multiplied = torch.zeros_like(pre_quarantine)
        self.released = torch.zeros(num_classes, dtype=torch.bool, device=labels.device)
        self._favour_pre_quarantine()

    def shares(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each label lies on the class and how much on its quarantine.

        Args:
            index: int64 [n], the samples.

        Returns:
            Both float32 [n]; they sum to 1, except for multiplied labels.
        """
        quarantine, multiplied = self.epsilon[index], self.multiplied[index]
        largest = self.params.epsilon_max
        on_class = torch.where(multiplied, (1 - largest) * (1 - quarantine), 1 - quarantine)
        return on_class, torch.where(multiplied, largest * quarantine, quarantine)

    def handed_on(self) -> Tensor:
        """float32 [N], epsilon for labels that sum to 1: the largest where a label is multiplied."""
        return torch.where(self.multiplied, self.params.epsilon_max, self.epsilon)

    def after_epoch(self, epoch: int, quarantined: Tensor) -> Tensor:
        """Moves every epsilon for the epoch that follows.

        Args:
            epoch: the one that ended, from 0.
            quarantined: bool [N], the samples that it put into their quarantine class.

        Returns:
            Which classes were released, bool [K].
        """
        p = self.params
        if epoch + 1 < p.dynamic_epochs:
            self._grow(epoch + 1, quarantined)
            self._favour_pre_quarantine()
        else:
            self.multiplied.fill_(False)
            self.epsilon.fill_(p.epsilon_min)
            self.epsilon[quarantined] = p.epsilon_max
            if p.keep_pre_quarantine:
                self.epsilon[self.pre_quarantine] = p.epsilon_max
        released = self.crowded(quarantined)
        if epoch not in p.release_epochs:
            released = torch.zeros_like(released)
        self.released |= released
        self._release(self.released if p.release_lasts == "end" else released)
        return released

    def _favour_pre_quarantine(self) -> None:
        if self.params.pre_quarantine_label == "multiplied":
            self.multiplied.copy_(self.pre_quarantine & ~self.released[self.labels])
        else:
            self.epsilon[self.pre_quarantine] = self.params.epsilon_max

    def _grow(self, epoch: int, quarantined: Tensor) -> None:
        p = self.params
        if p.epsilon_schedule == "cumulative":
            self.epsilon[quarantined] += p.epsilon_step * epoch
        else:
            self.epsilon.fill_(p.epsilon_init)
            # The second phase has begun for them: who is out of quarantine stays at the minimum.
            self.epsilon[self.released[self.labels]] = p.epsilon_min
            grown = p.epsilon_init + p.epsilon_step * epoch
            self.epsilon[quarantined] = p.epsilon_max if p.epsilon_schedule == "fixed" else grown
        self.epsilon.clamp_(p.epsilon_min, p.epsilon_max)

    def _release(self, classes: Tensor) -> None:
        samples = classes[self.labels]
        self.epsilon[samples] = self.params.epsilon_min
        self.multiplied[samples] = False

    def crowded(self, quarantined: Tensor) -> Tensor:
        """The classes of which more than the threshold is in quarantine, or as much as it; bool [K]."""
        inside = torch.bincount(self.labels[quarantined], minlength=len(self.counts))
        # float64 and a margin: rounding must not make a whole limit (0.29 * 100) a little smaller than it is.
        limit = self.params.release_threshold * self.counts.double()
        over: Tensor = inside > limit + 1e-9
        reached: Tensor = (inside >= limit - 1e-9) & (self.counts > 0)
        return reached if self.params.release_at == "reached" else over

    def still_released(self) -> float:
        """How much of the classes that were released is at the minimum, in classes: 1 is all of one class."""
        raised = (self.epsilon > self.params.epsilon_min) | self.multiplied
        share_raised = torch.bincount(self.labels[raised], minlength=len(self.counts)) / self.counts.clamp(min=1)
        return float((1 - share_raised)[self.released].sum())
