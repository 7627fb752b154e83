"""Sizes and ages as people type them, and sizes as they read them."""

import argparse
import re

_BYTES: dict[str, int] = {"": 1, "b": 1} | {f"{letter}b": 1000 ** (power + 1) for power, letter in enumerate("kmgt")}
_BYTES |= {f"{letter}ib": 1024 ** (power + 1) for power, letter in enumerate("kmgt")}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SIZE_RULE = "must be a size such as 500MB or 2GB"
AGE_RULE = "must be an age such as 12h, 30d or 8w (s, min, h, d, w)"


def format_size(count: float) -> str:
    """Bytes with three significant digits: ``0 B``, ``934 B``, ``1.20 MB``, ``45.1 GB``."""
    unit = 0
    while count >= 999.5 and unit < 4:
        count, unit = count / 1000, unit + 1
    digits = 0 if unit == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def parse_size(text: str) -> int:
    """A size in bytes.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number, unit = _parts(text, f"{SIZE_RULE}, got {text!r}")
    if unit not in _BYTES:
        raise argparse.ArgumentTypeError(f"{SIZE_RULE}, got {text!r}")
    return round(number * _BYTES[unit])


def parse_age(text: str) -> float:
    """An age in seconds.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number, unit = _parts(text, f"{AGE_RULE}, got {text!r}")
    if unit not in _SECONDS:
        raise argparse.ArgumentTypeError(f"{AGE_RULE}, got {text!r}")
    return number * _SECONDS[unit]


def _parts(text: str, rule: str) -> tuple[float, str]:
    parts = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if parts is None:
        raise argparse.ArgumentTypeError(rule)
    return float(parts[1]), parts[2]
