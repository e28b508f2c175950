"""The blocks of a batch on a CUDA device: rows of many tasks in launches of one shape, captured once as graphs."""
