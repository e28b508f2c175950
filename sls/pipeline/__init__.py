"""From a dataset to a certified task folder."""
