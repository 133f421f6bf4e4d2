"""The command line: one file per command. Each parses, calls the library, prints one summary."""
