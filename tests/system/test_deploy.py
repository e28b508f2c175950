from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from serving.app import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, MAX_ONGOING, Replica
from serving.config import ServeConfig

DEPLOY = Path(__file__).parents[2] / "deploy"


def serve_configs() -> list[ServeDeploySchema]:
    """Both configs as Ray's own schema reads them."""
    service = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
    texts = [(DEPLOY / "serve.yaml").read_text(), service["spec"]["serveConfigV2"]]
    return [ServeDeploySchema.model_validate(yaml.safe_load(text)) for text in texts]


@pytest.mark.parametrize("config", serve_configs(), ids=["serve.yaml", "rayservice.yaml"])
def test_a_serve_config_names_this_application_its_deployment_and_arguments_that_it_takes(config):
    (application,) = config.applications
    assert application.import_path == "serving.app:build"
    assert [deployment.name for deployment in application.deployments] == [Replica.name]
    assert ServeConfig.model_validate(application.args).store == "/srv/onetrunk"


def test_the_rayservice_names_the_ray_that_is_installed_and_gives_each_replica_its_cpus():
    service = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__
    (worker,) = cluster["workerGroupSpecs"]
    (container,) = worker["template"]["spec"]["containers"]
    (application,) = serve_configs()[1].applications
    assert float(container["resources"]["limits"]["cpu"]) >= application.deployments[0].ray_actor_options.num_cpus


def test_ray_asks_for_a_token_and_only_serves_port_is_open_to_everyone():
    service = yaml.safe_load((DEPLOY / "rayservice.yaml").read_text())
    assert service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    policy = yaml.safe_load((DEPLOY / "networkpolicy.yaml").read_text())
    opened = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert opened == [[{"port": serve_configs()[1].http_options.port, "protocol": "TCP"}]]


@pytest.mark.parametrize("config", serve_configs(), ids=["serve.yaml", "rayservice.yaml"])
def test_a_stuck_replica_is_replaced_as_soon_as_by_onetrunk_serve(config):
    (deployment,) = config.applications[0].deployments
    assert deployment.health_check_period_s == HEALTH_PERIOD_S
    assert deployment.health_check_timeout_s == HEALTH_TIMEOUT_S
    assert deployment.max_ongoing_requests == MAX_ONGOING


def test_the_dockerfile_copies_all_that_the_wheel_holds_and_pins_torch_as_the_project_does():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["path"]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    for part in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] + [hook]:
        assert any(fnmatch.fnmatch(part, name) for name in copied), part
    for pin in (pin for pin in project["project"]["dependencies"] if pin.startswith(("torch==", "torchvision=="))):
        assert pin in dockerfile


def test_the_image_is_the_last_stage_and_has_no_compiler():
    """The kernel is compiled in the first stage, anew: what a checkout has compiled fits the checkout's system."""
    first, last = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert "g++" in first
    assert "rm -rf serving/kernel/lib && pip wheel" in first
    assert "g++" not in last
    assert "apt-get" not in last
