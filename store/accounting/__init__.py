"""What every byte of a store is for, what the same tasks would take elsewhere, and what it costs."""
