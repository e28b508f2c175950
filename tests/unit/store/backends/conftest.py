"""Asserts of the shared tests show their values, as those in a test file do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("store.backends.testing")
