"""The door of the store: versions, aliases, tenants, bundles."""
