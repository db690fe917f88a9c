"""How adapters come into production and out of it again: pure, part of the ModelEndpoint's one arbiter."""
