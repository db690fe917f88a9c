"""A recorded request log asked of two servers: pairs for those who have no gateway."""
