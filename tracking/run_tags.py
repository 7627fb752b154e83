"""What a run is found again by in MLflow, and how much of a text MLflow's columns hold."""

import getpass
import hashlib

from tracking import names

PARAM_LENGTH, TAG_LENGTH, DATASET_LENGTH, NAME_LENGTH, DIGEST_LENGTH = 6000, 8000, 500, 250, 32


def storable(text: str, length: int) -> str:
    """A text as a database takes it: not too long, and without what UTF-8 or a text column cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:length]


def hash_key(run_key: str) -> str:
    """A key as MLflow's filters can take it: they have no way to write every character."""
    return hashlib.sha256(run_key.encode("utf-8", "backslashreplace")).hexdigest()


def new_run_tags(run_key: str) -> dict[str, str]:
    """The tags with which a run is made."""
    tags = {names.TAG_RUN_KEY: storable(run_key, TAG_LENGTH), names.TAG_RUN_HASH: hash_key(run_key)}
    return tags | {names.TAG_SOURCE: "study.run", names.TAG_SOURCE_TYPE: "LOCAL", names.TAG_USER: _user()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in a container
        return ""
