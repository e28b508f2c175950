"""The engine's own kernel: C++ that is compiled for each instruction set, and the choice among them."""
