"""Many tasks at once: tuned, or asked for many images, over the processes of Ray."""
