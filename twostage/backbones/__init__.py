"""The catalogue of CNNs, how one is built and stripped, and the engine that runs it."""
