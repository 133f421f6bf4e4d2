"""Train the last blocks of a backbone, and a top, on labelled images."""
