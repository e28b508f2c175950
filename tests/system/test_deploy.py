"""What deploy/ says about itself, read as those who will read it do: by their schemas, and against this project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from ray.serve.schema import ServeDeploySchema
from support.cli import call
from support.processes import importing

from serving.app import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, MAX_ONGOING, Replica, build
from serving.cluster.haproxy import find_haproxy
from serving.config import ServeConfig

ROOT = Path(__file__).parents[2]
DEPLOY, GOLDEN = ROOT / "deploy", ROOT / "tests" / "golden"
OVERLAYS = ("dev", "prod")


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def service() -> Any:
    return read("kubernetes/base/rayservice.yaml")


def groups() -> dict[str, Any]:
    """The specs of the head's pod and of a worker's."""
    cluster = service()["spec"]["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"], "worker": worker}


def problems(schema: str, document: object) -> list[str]:
    validator = jsonschema.validators.validator_for({"$schema": "https://json-schema.org/draft/2020-12/schema"})
    found = validator(json.loads((GOLDEN / schema).read_text())).iter_errors(document)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


def test_the_serve_file_is_what_the_command_in_it_prints_and_rays_schema_accepts_it(tmp_path):
    text = (DEPLOY / "serve.yaml").read_text()
    comment, content = re.match(r"((?:#[^\n]*\n)*)(.*)", text, re.DOTALL).groups()
    words = re.search(r"#   onetrunk (serve-config.*)", comment)[1].split()
    assert call(*words, store=tmp_path).out == content
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    assert ServeConfig.model_validate(application.args).keys is True
    assert [deployment.name for deployment in application.deployments] == [Replica.name]


def test_the_serve_file_survives_rays_own_serve_build(tmp_path):
    """What `serve build` says of the application that the file names has the same deployment, field by field."""
    (application,) = read("serve.yaml")["applications"]
    code = f"from serving.app import build\napplication = build({application['args']!r})\n"
    (tmp_path / "vision.py").write_text(code)
    command = [Path(sys.executable).with_name("serve"), "build", "vision:application", "--output-path", "built.yaml"]
    subprocess.run([*command, "--app-dir", "."], cwd=tmp_path, env=importing(), check=True, capture_output=True)
    (built,) = yaml.safe_load((tmp_path / "built.yaml").read_text())["applications"]
    (deployment,), (written,) = built["deployments"], application["deployments"]
    logs = deployment.pop("logging_config")
    assert logs["enable_access_log"] is written["logging_config"]["enable_access_log"] is False
    assert deployment.items() <= written.items()
    assert set(written) - set(deployment) == {"num_replicas", "ray_actor_options", "logging_config"}


def test_a_builder_takes_the_arguments_as_the_file_has_them_and_refuses_others():
    """Ray hands over a dict where it cannot see the type, as under `from __future__ import annotations`."""
    (settings,) = build({"store": "s3://a/b", "keys": True})._bound_deployment.init_args
    assert isinstance(settings, ServeConfig)
    assert settings.session_secret
    with pytest.raises(ValueError, match="colour"):
        build({"store": "s", "colour": "red"})


def test_the_rayservice_runs_the_serve_file_on_the_ray_that_is_installed():
    content = "".join(line for line in (DEPLOY / "serve.yaml").open() if not line.startswith("#"))
    assert service()["spec"]["serveConfigV2"] == content
    assert service()["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_kuberays_schema_accepts_the_rayservice_and_finds_what_is_wrong():
    assert problems("kuberay-rayservice-1.7.0.json", service()) == []
    wrong = service()
    wrong["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    wrong["spec"]["rayClusterConfig"]["authOptions"]["mode"] = "open"
    assert len(problems("kuberay-rayservice-1.7.0.json", wrong)) == 2


def test_the_compose_file_is_one_and_nothing_but_onetrunk_is_reached_from_outside():
    compose = read("compose.yaml")
    assert problems("compose-spec.json", compose) == []
    assert problems("compose-spec.json", {"services": {"a": {"image": "b", "portz": []}}}) != []
    assert {name for name, each in compose["services"].items() if "ports" in each} == {"onetrunk"}
    assert compose["networks"]["inside"]["internal"] is True
    assert "--keys" in compose["services"]["onetrunk"]["command"]
    assert not re.search(r"(PASSWORD|SECRET_ACCESS_KEY): (?!\$\{)", (DEPLOY / "compose.yaml").read_text())


def test_a_stuck_replica_is_replaced_as_soon_as_by_onetrunk_serve():
    (application,) = ServeDeploySchema.model_validate(read("serve.yaml")).applications
    (deployment,) = application.deployments
    assert deployment.health_check_period_s == HEALTH_PERIOD_S
    assert deployment.health_check_timeout_s == HEALTH_TIMEOUT_S
    assert deployment.max_ongoing_requests == MAX_ONGOING


def test_the_head_runs_no_replica_and_each_worker_has_the_cores_of_one():
    head, worker = groups().values()
    assert head["rayStartParams"]["num-cpus"] == "0"
    (deployment,) = read("serve.yaml")["applications"][0]["deployments"]
    (container,) = worker["template"]["spec"]["containers"]
    assert float(container["resources"]["limits"]["cpu"]) >= deployment["ray_actor_options"]["num_cpus"]


def test_no_two_listeners_of_a_pod_have_one_port_and_serves_is_none_of_rays():
    ports = [each["containerPort"] for group in groups().values()
             for each in group["template"]["spec"]["containers"][0]["ports"]]  # fmt: skip
    assert len(ports) == len(set(ports))
    assert read("serve.yaml")["http_options"]["port"] not in {6379, 8265, 10001, 52365}


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_a_pod_is_no_root_writes_in_its_own_folders_and_has_no_token_of_kubernetes(kind):
    spec = groups()[kind]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_a_workers_probes_need_no_program_that_the_image_lacks():
    (container,) = groups()["worker"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8000}
    assert container["livenessProbe"]["httpGet"]["port"] == 52365
    assert groups()["worker"]["template"]["spec"]["affinity"]["podAntiAffinity"]


def test_ray_asks_for_a_token_and_only_serves_port_is_open_to_everyone():
    assert service()["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    policy = read("kubernetes/base/networkpolicy.yaml")
    opened = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert opened == [[{"port": read("serve.yaml")["http_options"]["port"], "protocol": "TCP"}]]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_budget_counts_the_pods_that_kuberay_labels_as_the_group():
    budget = read("kubernetes/base/disruption.yaml")
    assert budget["spec"]["selector"]["matchLabels"]["ray.io/group"] == groups()["worker"]["groupName"]
    assert budget["spec"]["maxUnavailable"] == 1


def test_haproxy_accepts_its_configuration():
    program = find_haproxy()
    if program is None:
        pytest.skip("HAProxy comes with ray[serve] on Linux only")
    done = subprocess.run([program, "-c", "-f", DEPLOY / "haproxy.cfg"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f":{read('serve.yaml')['http_options']['port']} " in (DEPLOY / "haproxy.cfg").read_text().replace("\n", " ")


def stages() -> list[str]:
    return re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]


def test_the_image_is_built_of_all_that_the_wheel_holds_and_nothing_else_goes_to_the_builder():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["path"]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", stages()[0], re.MULTILINE) for name in line.split()]
    for part in [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], hook]:
        assert part in copied, part
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(copied) <= set(let_in)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_image_is_the_last_stage_is_no_root_has_no_compiler_and_asks_for_keys():
    """The kernel is compiled in the first stage, anew: what a checkout has compiled fits the checkout's system."""
    first, last = stages()
    assert "g++" in first
    assert "rm -rf serving/kernel/lib && pip install" in first
    assert "g++" not in last
    assert "apt-get" not in last
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert '"--keys"]' in last
    assert re.search(r"^ARG PYTHON_IMAGE=\S+@sha256:[0-9a-f]{64}$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_the_image_installs_each_library_by_its_hash_in_the_version_that_the_tests_run_on():
    lines = [line for line in (DEPLOY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    installed = dict(line.split()[0].split("==") for line in lines)
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert {name: tested[name] for name in installed.keys() & tested.keys()} == {
        name: version for name, version in installed.items() if name in tested
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(each for extra in ("cloud", "postgres", "traces")
                                          for each in project["optional-dependencies"][extra])]  # fmt: skip
    for requirement in map(Requirement, needed):
        if requirement.name in ("torch", "torchvision"):
            assert str(requirement) in stages()[0]
        else:
            assert requirement.specifier.contains(installed[requirement.name.replace("_", "-").lower()]), requirement
