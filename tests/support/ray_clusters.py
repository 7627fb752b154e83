"""Ray clusters of this machine's own, for tests."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from study.driver import library_env, ray_session

SMALL_STORE = 100 << 20
NODE = {"num_cpus": 1, "object_store_memory": SMALL_STORE}


@contextmanager
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head of one CPU; tests add other nodes. Its address is told to nobody else on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    library_env.quiet_ray()
    monkeypatch.setattr(ray._private.utils, "write_ray_address", lambda *_arguments: None)
    folder = tempfile.mkdtemp(prefix="rc")  # short: Ray's sockets lie below it
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": folder, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray_session._shut_down_ray()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
