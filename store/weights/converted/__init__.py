"""Adapters that others made or will load, and tasks that leave: in the layouts of transformers, timm and ONNX."""
