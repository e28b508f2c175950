"""The application as Ray's own `serve build` describes it, in a file for `serve deploy` and KubeRay."""

from __future__ import annotations

from typing import Any, cast

import yaml
from ray import serve as ray_serve
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeDeploySchema

from serving.app import Replica
from serving.cluster.applications import autoscaling
from serving.cluster.plan import Replicas
from serving.config import ServeConfig

IMPORT_PATH = "serving.app:build"


def config_file(config: ServeConfig, *, host: str, port: int, replicas: Replicas, name: str, prefix: str) -> str:
    """Return the file's text, which Ray's schema accepts; a field that is as by default is left out of `args`."""
    application = {
        "name": name,
        "route_prefix": prefix,
        "import_path": IMPORT_PATH,
        "args": config.model_dump(exclude_defaults=True),
        "deployments": [_deployment(config, replicas)],
    }
    content = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [application],
    }
    ServeDeploySchema.model_validate(content)
    return str(yaml.safe_dump(content, sort_keys=False, width=120))


def _deployment(config: ServeConfig, replicas: Replicas) -> dict[str, Any]:
    count = {"num_replicas": replicas.least} if replicas.fixed else {"autoscaling_config": autoscaling(replicas)}
    actor: dict[str, Any] = {"num_cpus": config.threads}
    if config.device != "cpu":
        actor["num_gpus"] = 1
    actor["runtime_env"] = {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    fields = deployment_to_schema(cast(ray_serve.Deployment, Replica)).model_dump(exclude_unset=True, exclude_none=True)
    fields["logging_config"] = {"enable_access_log": False}  # its other fields are Ray's own
    return {**fields, **count, "ray_actor_options": actor}
