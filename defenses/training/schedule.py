"""Learning rate as a function of progress."""

import math

SCHEDULES = ("constant", "cosine", "step", "one_cycle", "warm_up_cosine", "rise")
_STEPS = (0.5, 0.75)  # PIPD, appendix B.2: divided by 10 at epochs 100 and 150 of 200
_WARM_UP = 0.3  # share of a one-cycle run that rises (Smith and Topin, 2019)
_START = 0.04  # one-cycle starts at this share of the peak
_BRIEF_WARM_UP, _LOW_START, _FLOOR = 0.05, 0.02, 1e-3  # D-ST: 10 of 200 epochs from 0.01 to 0.5, down to 0.0005
_RISE_START, _RISE = 0.002, 0.98  # D-ST's head: from 0.01 to 5 over all of its epochs, of which it sees the peak


def learning_rate(schedule: str, peak: float, progress: float) -> float:
    """The rate at a point of the run.

    Args:
        schedule: one of `SCHEDULES`. ``cosine`` falls from peak to 0 over the run; ``step`` divides by 10 at half
            and at three quarters; ``one_cycle`` rises for 30 % of the run and falls to 0; ``warm_up_cosine`` rises for
            5 % and falls to a thousandth; ``rise`` rises evenly from nearly 0 to the end.
        peak: the largest rate, > 0.
        progress: share of the run's steps that are done, in [0, 1).

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "step":
        return peak * 0.1 ** sum(progress >= step for step in _STEPS)
    if schedule == "one_cycle":
        if progress < _WARM_UP:
            return peak * (_START + (1 - _START) * progress / _WARM_UP)
        return peak * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
    if schedule == "warm_up_cosine":
        if progress < _BRIEF_WARM_UP:
            return peak * (_LOW_START + (1 - _LOW_START) * progress / _BRIEF_WARM_UP)
        falling = 0.5 * (1 + math.cos(math.pi * (progress - _BRIEF_WARM_UP) / (1 - _BRIEF_WARM_UP)))
        return peak * (_FLOOR + (1 - _FLOOR) * falling)
    if schedule == "rise":
        return peak * (_RISE_START + (1 - _RISE_START) * min(1.0, progress / _RISE))
    raise ValueError(f"a schedule is one of {SCHEDULES}, got {schedule!r}")
