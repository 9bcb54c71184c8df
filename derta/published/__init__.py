"""Published data by reference: the authors' files and format, other datasets, and the published prompts."""
