"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# The models here are too small to gain from threads, and torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asks the real hub, nor with anybody's token. huggingface_hub reads this when imported.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # where nobody listens
os.environ["HF_TOKEN_PATH"] = os.devnull
os.environ["HF_HUB_DISABLE_XET"] = "1"
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)

# The same examples in every run: a test that turns red was turned by a change.
settings.register_profile("offramp", deadline=None, derandomize=True, database=None)
settings.load_profile("offramp")
