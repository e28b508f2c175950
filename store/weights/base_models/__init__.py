"""Base models in the layout of transformers, as backbones: their weights, and what their image processor does."""
