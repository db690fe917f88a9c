"""What a test measured, for people: one HTML page and one JSON document of the same numbers."""
