"""What the store says of stages without opening them: what they took, and which of a plan's are there already.

For estimates alone: nothing is verified, fetched or removed, and a damaged entry says nothing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defenses.storage.remote import cache_folder, is_url
from defenses.trajectories import key_params
from study.planning.plan import Plan
from study.planning.shared_stages import Build
from study.scenarios.evaluation import cached_images
from study.scenarios.oracle_defenses import find_defense
from study.scenarios.scenario import stage_seed
from study.scenarios.stored_poison import poison_key, trigger_key

_LOOKED_AT = 2000  # entries of a stage, the newest
_SIZES = ("name", "width", "blocks", "num_classes", "image_size")  # of a network: what decides how long it trains

Entry = dict[str, Any]
"""The ``meta.json`` of an entry, and its ``folder``."""


class StoredStages:
    """A look at the store of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        place = plan.environment.store
        self._root = cache_folder(str(place)) if is_url(place) else Path(place)
        self._images = cached_images(plan.environment.dataset)
        stages = {build.stage for build in plan.builds} - {"trigger", "poison"}
        self._entries = {stage: _entries(self._root / stage) for stage in stages}
        self._data = {folder.name: data for folder, data in _datasets(self._root / "poison").items()}

    def costs(self) -> dict[str, float]:
        """Seconds by kind of stage that it took to build them for this study or another.

        Only stages of the same settings and a network of the same size, on the same kind of device, count; they are
        scaled by the number of samples.
        """
        samples = len(self._images.train_labels)
        sizes = dict(self._data.values())
        costs: dict[str, float] = {}
        for build in self._plan.builds:
            known = [
                entry["built_seconds"] * samples / sizes[entry["describe"]["dataset"]]
                for entry in self._entries.get(build.stage, ())
                if build.kind not in costs and sizes.get(entry["describe"]["dataset"]) and self._alike(entry, build)
            ]
            if known:
                costs[build.kind] = sum(known) / len(known)
        return costs

    def there(self) -> frozenset[int]:
        """Positions of the builds of the plan that nobody has to build any more."""
        return frozenset(position for position, build in enumerate(self._plan.builds) if self._is_there(build))

    def _is_there(self, build: Build) -> bool:
        device = torch.device(self._plan.environment.device)
        poison = poison_key(build.scenario, self._images, device)
        if poison not in self._data:
            trigger = self._root / "trigger" / trigger_key(build.scenario, self._images, device) / "meta.json"
            return build.stage == "trigger" and trigger.is_file()
        if build.stage in ("trigger", "poison"):
            return True
        fingerprint, seed = self._data[poison][0], stage_seed(build.scenario)
        return any(
            (entry["describe"]["dataset"], entry["describe"]["seed"]) == (fingerprint, seed)
            and self._alike(entry, build, searched=frozenset())
            for entry in self._entries[build.stage]
        )

    def _alike(self, entry: Entry, build: Build, searched: frozenset[str] | None = None) -> bool:
        """Whether an entry was made as a build will be, whatever the fields that are searched are in it."""
        described, environment = entry["describe"], self._plan.environment
        free = frozenset(self._plan.space.ranges) if searched is None else searched
        defense = find_defense(build.defense)
        stage = next(stage for stage in defense.stages if stage.name == build.stage)
        config = defense.config_type.from_mapping(build.config)
        sizes = [environment.model, environment.width, list(environment.blocks)]
        sizes += [self._images.num_classes, self._images.image_size]
        return (
            _without(described["params"], free) == _without(key_params(stage, config), free)
            and [described["model"].get(name) for name in _SIZES] == sizes
            and described["version"] == stage.version
            and described["precision"] == environment.precision
            and described["numerics"]["device"] == environment.device
        )


def _without(fields: Mapping[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    """Fields as JSON gives them back, less some."""
    kept = {name: value for name, value in fields.items() if name not in left_out}
    return dict(json.loads(json.dumps(kept)))


def _entries(stage: Path) -> list[Entry]:
    """The newest entries of a stage that can be read and say what they were made of."""
    try:
        places = [(entry.stat().st_mtime, Path(entry.path)) for entry in os.scandir(stage)]
    except OSError:  # nothing was ever built
        return []
    entries = []
    for _, folder in sorted(places, reverse=True)[:_LOOKED_AT]:
        try:
            entry = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            described = entry["describe"]
            complete = {"params", "model", "version", "precision", "numerics", "dataset", "seed"} <= set(described)
            if complete and float(entry["built_seconds"]) >= 0 and {"device"} <= set(described["numerics"]):
                entries.append(entry | {"folder": folder})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return entries


def _datasets(stage: Path) -> dict[Path, tuple[str, int]]:
    """Folder of each poisoned dataset -> its fingerprint and number of samples."""
    data = {}
    for meta in stage.glob("*/meta.json"):
        try:
            files = json.loads(meta.read_text(encoding="utf-8"))["files"]
            fingerprint = json.loads((meta.parent / files["fingerprint"]).read_text(encoding="utf-8"))
            labels = np.load(meta.parent / files["labels"], mmap_mode="r", allow_pickle=False)
            data[meta.parent] = (str(fingerprint), len(labels))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return data
