"""How the costs of mixed tasks and of a server are measured."""
