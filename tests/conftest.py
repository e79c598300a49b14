"""What all tests share."""

import os

# The tests speak of one CPU; for those that compare with a GPU, set CUDA_VISIBLE_DEVICES yourself.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from hypothesis import settings

# The same examples at every run, and no time limit per example: a busy machine is no failure.
settings.register_profile("reg", deadline=None, derandomize=True)
settings.load_profile("reg")
