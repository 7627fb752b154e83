"""How the threads of a training wait for each other: what OpenMP must be told before torch is loaded. Loads nothing."""

import os


def wait_passively() -> None:
    """Threads that wait sleep, unless the user's ``OMP_WAIT_POLICY`` says otherwise.

    By default they spin for a while first. Where a training has several threads (``--threads``) and another process
    wants the same cores, they then keep those from whom they wait for. It moves no sum, and is no part of any key.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
