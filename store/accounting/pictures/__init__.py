"""Pictures of a storage report as SVG, in one style, with the data behind each."""
