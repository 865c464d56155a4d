"""Circuit -> deck text and back, one file per dialect."""
