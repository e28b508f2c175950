from __future__ import annotations

import pytest
import yaml

from serving.config import ServeConfig
from serving.deployment_file import deployment_file
from store.errors import InvalidSettingError

BUCKET, DATABASE = "s3://a/b", "postgresql+psycopg://onetrunk@db/onetrunk"


def application(**given: object) -> dict[str, object]:
    (found,) = yaml.safe_load(deployment_file(BUCKET, catalogue=DATABASE, **given))["applications"]
    return found


def test_the_arguments_make_the_settings_that_serve_would_make():
    args = application(threads=4, rate_limit=100.0, replicas=(2, 8), grpc_port=8001)["args"]
    expected = ServeConfig(store=BUCKET, catalogue=DATABASE, threads=4, keys=True, rate_limit=12.5, grpc="0.0.0.0:8001")
    assert ServeConfig.model_validate(args) == expected


def test_no_secret_is_in_the_file():
    assert "session_secret" not in deployment_file(BUCKET, catalogue=DATABASE)
    for wrong in ("postgresql+psycopg://onetrunk:hidden@db/onetrunk", f"{DATABASE}?password=hidden"):
        with pytest.raises(InvalidSettingError, match="PGPASSWORD") as refusal:
            deployment_file(BUCKET, catalogue=wrong)
        assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("given", [{"port": 8265}, {"port": 6379}, {"grpc_port": 10001}, {"port": 1, "grpc_port": 1}])
def test_a_port_that_is_taken_on_every_head_or_given_twice_is_refused(given):
    with pytest.raises(InvalidSettingError, match="choose another"):
        deployment_file(BUCKET, **given)


def test_a_replica_gets_as_many_cores_as_it_has_threads_and_a_gpu_where_it_uses_one():
    (deployment,) = application(threads=3, device="cuda")["deployments"]
    assert deployment["ray_actor_options"]["num_cpus"] == 3
    assert deployment["ray_actor_options"]["num_gpus"] == 1
    (scaled,) = application(replicas=(1, 4))["deployments"]
    assert (scaled["autoscaling_config"]["min_replicas"], scaled["autoscaling_config"]["max_replicas"]) == (1, 4)
    assert "num_replicas" not in scaled
