"""What `onetrunk bench` and the benchmarks measure with."""
