"""Networks of several inputs: a branch for each, and a fusion of what comes of them."""
