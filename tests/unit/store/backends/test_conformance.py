"""The folder and the bucket pass the tests of every backend; the bucket is on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.backends.base import Backend
from store.backends.testing import BackendTests
from store.backends.urls import open_backend


class TestLocalBackend(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return open_backend(tmp_path / "not" / "yet" / "made")


@pytest.mark.service
class TestObjectStoreBackend(BackendTests):
    @pytest.fixture
    def backend(self, bucket: str) -> Backend:
        return open_backend(bucket)
