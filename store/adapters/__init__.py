"""What a PEFT folder must be; no torch."""
