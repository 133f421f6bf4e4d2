"""Pages that people read, and plots, made of what a benchmark or a model recorded."""
