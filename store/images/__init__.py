"""Images as bytes: what they say they are, what they cost to decode, and their pixels; without torch or numpy."""
