"""Where shards run. An executor has one method, ``run``."""
