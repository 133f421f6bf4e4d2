"""Evidence: the same folds for every arm, scores with intervals, and what they say."""
