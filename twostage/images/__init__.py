"""Find images and turn their bytes into uint8 pixels; errors are data."""
