"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# The models here are too small to gain from threads, and torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: a test that turns red was turned by a change.
settings.register_profile("offramp", deadline=None, derandomize=True, database=None)
settings.load_profile("offramp")
