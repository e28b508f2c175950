"""Labelled images: folders, arrays, embedded datasets, and the datasets that timm reads."""
