from __future__ import annotations

import pytest

from serving.cluster.own_ray import make_folder
from serving.cluster.plan import HAPROXY, PYTHON, Replicas, ServerPlan
from serving.cluster.shared_ray import check_address, check_names
from serving.port import free_port
from serving.server import check_prefix, choose_ingress, count_replicas, serve
from store.errors import ConflictError, InvalidSettingError, NotAllowedError, ServerError
from store.registry.store import Store


def plan(*prefixes: str, ingress: str = HAPROXY, name: str = "onetrunk") -> ServerPlan:
    applications = {prefix: {"store": "s"} for prefix in prefixes or ("/",)}
    return ServerPlan(applications, "127.0.0.1", 1, ingress, Replicas(1, 2), name, affinity=False, ray_address=None)


@pytest.fixture
def store(tmp_path) -> str:
    Store.open(tmp_path / "store", create=True).close()
    return str(tmp_path / "store")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_a_host_beyond_this_machine_without_keys_is_refused_with_both_ways_out(store, host):
    with pytest.raises(NotAllowedError, match=rf"{host} .*`keys=True`.*`insecure=True`"):
        serve(store, host=host)


@pytest.mark.parametrize(
    "allowed", [{"keys": True}, {"insecure": True}, {"host": "127.0.0.1"}, {"host": "::1"}, {"host": "localhost"}]
)
def test_keys_or_insecure_or_loopback_are_allowed(store, allowed):
    serve(store, **{"host": "0.0.0.0", **allowed})


def test_a_plan_is_the_same_after_it_was_passed_on():
    assert ServerPlan.from_json(plan("/", "/b").to_json()) == plan("/", "/b")


def test_several_applications_of_a_server_have_names_of_their_own():
    both = plan("/", "/full-depth", name="demo")
    assert [both.name_of(prefix) for prefix in both.applications] == ["demo", "demo-full-depth"]
    assert plan("/vision").name_of("/vision") == "onetrunk"


def test_by_default_there_is_a_replica_for_each_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr("serving.server.usable_cores", lambda: 8)
    assert count_replicas(None, threads=None, device="cpu") == Replicas(8, 8)
    assert count_replicas(None, threads=3, device="cpu") == Replicas(2, 2)
    assert count_replicas(None, threads=16, device="cpu") == Replicas(1, 1)
    assert count_replicas(None, threads=None, device="cuda") == Replicas(1, 1)
    assert count_replicas((1, 4), threads=None, device="cpu") == Replicas(1, 4)


@pytest.mark.parametrize("replicas", [0, -1, (0, 2), (3, 2)])
def test_a_number_of_replicas_that_cannot_be_is_refused(replicas):
    with pytest.raises(InvalidSettingError, match="give a number from 1"):
        count_replicas(replicas, threads=None, device="cpu")


@pytest.mark.parametrize("prefix", ["vision", "/a b", "/a?b", "/a//b", "/ä", "/a'b", "/a{b"])
def test_a_prefix_that_is_no_path_is_refused(prefix):
    with pytest.raises(InvalidSettingError, match="give a path such as /vision"):
        check_prefix(prefix)


def test_a_prefix_has_no_slash_at_its_end():
    assert [check_prefix(prefix) for prefix in ("/", "/vision/", "/a/b")] == ["/", "/vision", "/a/b"]


def test_without_haproxy_rays_own_proxy_is_in_front(monkeypatch):
    monkeypatch.setattr("serving.server.find_haproxy", lambda: None)
    assert choose_ingress("auto", affinity=False) == PYTHON
    with pytest.raises(InvalidSettingError, match="`ingress='python'`"):
        choose_ingress(HAPROXY, affinity=False)
    with pytest.raises(InvalidSettingError, match="`ingress='haproxy'`"):
        choose_ingress("auto", affinity=True)
    with pytest.raises(InvalidSettingError, match="no ingress 'nginx'"):
        choose_ingress("nginx", affinity=False)


def test_a_temporary_folder_that_is_too_long_for_sockets_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 60)))
    with pytest.raises(InvalidSettingError, match=r"x{60}, is too long for the sockets in it: set TMPDIR"):
        make_folder(plan().ingress)


def test_the_folder_of_a_server_is_private(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    folder = make_folder(plan().ingress)
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_ray_listens_is_named(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=f"no Ray at RAY_ADDRESS={address} .*unset it"):
        check_address(address)


def test_an_address_that_is_none_is_named():
    with pytest.raises(ServerError, match="no Ray at RAY_ADDRESS=nonsense"):
        check_address("nonsense")


def test_a_name_or_a_prefix_that_another_application_has_is_refused():
    check_names(plan("/vision"), {"other": "/", "third": None})
    with pytest.raises(ConflictError, match="an application 'onetrunk': choose another name with `name=`"):
        check_names(plan("/vision"), {"onetrunk": "/x"})
    with pytest.raises(ConflictError, match=r"'other' of the cluster has the prefix '/vision': .*`prefix=`"):
        check_names(plan("/vision"), {"other": "/vision"})
