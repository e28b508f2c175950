"""Which batch runs its next block: pure, without threads and tensors."""
