"""What the offices of a city ask for: the registry of what it has."""
