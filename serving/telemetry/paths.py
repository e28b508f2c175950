"""The paths of HTTP, and the methods of gRPC, that are counted apart or not at all."""

from __future__ import annotations

PREDICT, MODELS = "/v1/predict", "/v2/models/"
GRPC = "/inference.GRPCInferenceService/"
INFER = ("/infer", "/ModelInfer")
HEALTH = ("/healthz", "/readyz")
OIP_HEALTH = ("/v2/health/live", "/v2/health/ready")
PROBES = (*HEALTH, *OIP_HEALTH, "/metrics", "/v1/statistics")
"""What machines ask every few seconds."""


def is_prediction(path: str) -> bool:
    """Whether the path, or the method of gRPC, is one that answers images."""
    return path.startswith(PREDICT) or (path.endswith(INFER) and path.startswith((MODELS, GRPC)))
