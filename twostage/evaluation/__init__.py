"""What predictions are worth: calibration, thresholds; arrays in, records and tables out."""
