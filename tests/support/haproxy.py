"""The configuration of HAProxy as the Ray that is installed writes it."""

from __future__ import annotations

from pathlib import Path

from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

PREFIXES = ("/", "/full-depth")


def rendered(folder: Path, *, balance: str = "leastconn") -> str:
    """Return it for two applications of two replicas each."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=18001),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_enabled=False,
        balance_algorithm=balance,
        is_head=True,
    )
    backends = {
        f"http-{index}": BackendConfig(
            name=f"http-{index}",
            path_prefix=prefix,
            app_name=f"app-{index}",
            servers=[ServerConfig(f"replica-{index}-{port}", "127.0.0.1", port) for port in (30000, 30001)],
            fallback_server=ServerConfig("fallback", "127.0.0.1", 8500),
        )
        for index, prefix in enumerate(PREFIXES)
    }
    api = HAProxyApi(config, backends, config_file_path=str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()
