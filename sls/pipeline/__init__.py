"""From labelled images to a certified task folder."""
