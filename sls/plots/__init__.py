"""Pictures of scores, depths and features."""
