"""What tests share: oracles, toy backbones, real servers, faults."""
