"""Train adapters and a head; resume after an interruption."""
