"""The engine at work: its thread, the cache of adapters, the leases of versions."""
