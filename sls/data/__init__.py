"""Labelled images: folders, arrays, embedded tasks, and what timm reads."""
