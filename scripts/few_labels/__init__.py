"""The study of few action labels, in parts: `scripts/study_few_labels.py` runs it."""
