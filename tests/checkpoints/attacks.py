"""Hostile, broken, and odd but sound checkpoints: the table, each row with what must come of it.

A row is an `Attack`: a name, what writes its directory, and the outcome. `test_attacks.py` opens
them all. The rows are by what reads the file.
"""

from __future__ import annotations

import attacks_on_configs
import attacks_on_directories
import attacks_on_indices
import attacks_on_pickles
import attacks_on_safetensors
import attacks_on_zips
from attack_kit import Attack

GROUPS: dict[str, list[Attack]] = {
    "safetensors": attacks_on_safetensors.ROWS,
    "pdparams": attacks_on_pickles.ROWS,
    "bin": attacks_on_zips.ROWS,
    "index": attacks_on_indices.ROWS,
    "config": attacks_on_configs.ROWS,
    "directory": attacks_on_directories.ROWS,
}
ATTACKS = {f"{group}: {row.name}": row for group, rows in GROUPS.items() for row in rows}
"""All rows by their full names, which differ."""
