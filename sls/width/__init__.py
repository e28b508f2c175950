"""Which heads and MLP units of each block a task needs: importance, selection by a budget, and pruned adapters."""
