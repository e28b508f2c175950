"""One file for each family of PEFT methods: what is accepted, and why the rest is refused."""
