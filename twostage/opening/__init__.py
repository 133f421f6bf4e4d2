"""Open what others made: no code of a file runs, and none of ours is led astray by it."""
