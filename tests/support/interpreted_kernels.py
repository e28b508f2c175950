"""Have Triton run kernels without a GPU: it asks the environment when it is first imported, and torch imports it."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
