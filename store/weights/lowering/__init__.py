"""Each adapter method as the few forms that the engine runs; mirrors `store/adapters/methods`."""
