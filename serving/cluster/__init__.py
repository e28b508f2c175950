"""The process that runs Ray for one server, and what stands in front of its replicas."""
