"""What a store keeps, as frozen values; the standard library alone."""
