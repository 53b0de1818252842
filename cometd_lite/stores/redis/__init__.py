"""A store in Redis, which several processes share."""
