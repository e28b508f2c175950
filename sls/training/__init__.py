"""Train adapters and a head; go on after an interruption."""
