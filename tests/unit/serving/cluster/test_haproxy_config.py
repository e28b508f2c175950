from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support.haproxy import PREFIXES, rendered

from serving.cluster.haproxy import ERRORS, find_haproxy, write_error
from serving.cluster.haproxy_config import IngressSettings, edit


def settings(folder: Path, *, affinity: bool = False, address: str = "0.0.0.0:18001") -> IngressSettings:
    return IngressSettings(str(find_haproxy()), str(folder), address, PREFIXES, affinity, held=16, wait_ms=5000)


@pytest.fixture
def text(tmp_path) -> str:
    return rendered(tmp_path)


def test_only_the_servers_own_address_is_listened_on_beyond_the_private_folder(text, tmp_path):
    binds = re.findall(r"^\s*bind (\S+)", edit(text, settings(tmp_path)), re.MULTILINE)
    assert set(binds) == {f"unix@{tmp_path}/prometheus.sock", f"unix@{tmp_path}/stats.sock", "0.0.0.0:18001"}


def test_the_admin_socket_is_for_this_user_alone(text, tmp_path):
    assert "mode 666" in text
    assert "mode 666" not in edit(text, settings(tmp_path))


def test_a_prediction_alone_is_sent_to_another_replica(text, tmp_path):
    edited = edit(text, settings(tmp_path))
    reads = "/v1/predict /v2/models /full-depth/v1/predict /full-depth/v2/models"
    assert f"http-request disable-l7-retry unless {{ path_beg {reads} }}" in edited


@pytest.mark.parametrize(
    "line", ["mode 666", "timeout client", "errorfile 503", "bind 127.0.0.1", "status 404", "bind *"]
)
def test_a_configuration_without_a_line_that_an_edit_needs_is_refused(text, tmp_path, line):
    changed = "\n".join(each for each in text.splitlines() if line not in each)
    with pytest.raises(ValueError, match="0 lines like"):
        edit(changed, settings(tmp_path))


def test_a_line_that_is_there_twice_is_refused(text, tmp_path):
    (bind,) = re.findall(r"^ *bind 127\.0\.0\.1:\d+$", text, re.MULTILINE)
    with pytest.raises(ValueError, match="2 lines like"):
        edit(text.replace(bind, f"{bind}\n{bind}"), settings(tmp_path))


def test_small_predictions_are_bounded_in_each_replica_and_all_else_is_not(text, tmp_path):
    edited = edit(text, settings(tmp_path))
    for name in ("http-0", "http-1"):
        small, other = (backend(edited, each) for each in (name, f"{name}-other"))
        replicas = re.findall(r"server (replica\S+) (\S+) check .* maxconn 16$", small, re.MULTILINE)
        assert len(replicas) == 2
        assert "timeout queue 5000ms" in small
        assert re.findall(r"server (replica\S+) (\S+) track", other) == replicas
        assert "maxconn" not in other
        assert re.findall(r"server (fallback) \S+ (?:check|track \S+) backup$", small + other, re.M) == 2 * ["fallback"]
        first, second = re.findall(rf"use_backend (\S+) if is_{name}\b.*", edited)
        assert (first, second) == (f"{name}-other", name)


def test_a_replica_that_cannot_be_bounded_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="without a check in backend http-1"):
        edit(text.replace("127.0.0.1:30000 check", "127.0.0.1:30000"), settings(tmp_path))
    with pytest.raises(ValueError, match="no backend http-0"):
        edit(text.replace("backend http-0\n", "backend http-9\n"), settings(tmp_path))


def backend(text: str, name: str) -> str:
    """The lines of one backend."""
    return text.partition(f"\nbackend {name}\n")[2].partition("\nbackend ")[0]


@pytest.mark.skipif(find_haproxy() is None, reason="ray[serve] brings HAProxy on Linux only")
@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1:18001", "[::1]:18001", "localhost:18001"])
def test_haproxy_accepts_the_edited_configuration_of_the_ray_that_is_installed(tmp_path, affinity, address):
    text = rendered(tmp_path, balance="hash var(txn.task)" if affinity else "leastconn")
    for status in ERRORS:
        write_error(status, tmp_path)
    path = tmp_path / "edited.cfg"
    path.write_text(edit(text, settings(tmp_path, affinity=affinity, address=address)))
    checked = subprocess.run([str(find_haproxy()), "-c", "-f", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
