"""Models and adapters that others made or will load: in the layouts of transformers, timm and ONNX."""
