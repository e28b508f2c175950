"""Every replica of an application signs the console's sessions with the same secret, no other application does."""

from __future__ import annotations

from ray import serve as ray_serve

from serving.app import build
from serving.cluster.applications import Applications
from serving.cluster.plan import PYTHON, Replicas, ServerPlan
from serving.config import ServeConfig

PLAN = ServerPlan({"/": {"store": "s"}}, "127.0.0.1", 1, PYTHON, Replicas(1, 2), "onetrunk", False, None)


def secret_of(application: ray_serve.Application) -> str | None:
    (settings,) = application._bound_deployment.init_args
    return settings.session_secret


def test_replicas_that_are_started_later_get_the_first_ones_secret():
    applications, others = Applications(PLAN), Applications(PLAN)
    first = secret_of(applications._application({"store": "s"}, Replicas(1, 1)))
    assert first is not None
    assert len(first) == 64
    assert secret_of(applications._application({"store": "s"}, Replicas(1, 2))) == first
    assert secret_of(others._application({"store": "s"}, Replicas(1, 1))) != first


def test_the_secret_is_not_in_the_plan_which_other_users_can_list():
    assert "secret" not in PLAN.to_json().replace('"session_secret": null', "")


def test_an_application_of_a_configuration_gets_one_unless_it_brings_its_own():
    assert secret_of(build(ServeConfig(store="s"))) != secret_of(build(ServeConfig(store="s")))
    assert secret_of(build(ServeConfig(store="s", session_secret="own"))) == "own"


def test_a_configuration_does_not_print_it():
    assert "own" not in repr(ServeConfig(store="s", session_secret="own"))
