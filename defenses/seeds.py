"""Every random number comes from one base seed and the role it plays, so that runs can be repeated piece by piece."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SeedPart = str | int | float | bool


def derive_seed(*parts: SeedPart) -> int:
    """A seed in [0, 2**63) from any number of parts, the same on every machine and Python version."""
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: "torch.device | str", *parts: SeedPart) -> "torch.Generator":
    """A torch generator on a device, seeded from the parts."""
    import torch  # late: attacks and datasets draw seeds too, and listing their names must stay quick

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
