"""A user's own small world: plain-English access rules, CEL expressions, and a tiny model with a real weakness."""
