"""Score each block's features, and choose the depth by a rule."""
