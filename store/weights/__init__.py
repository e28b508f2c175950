"""The one room of the store with torch: backbones, and tasks as the engine takes them."""
