"""Studies of one question each, with their notes beside them."""
