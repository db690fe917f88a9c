"""A Job that asks both versions the principle prompts, and holds the answers against each other."""
