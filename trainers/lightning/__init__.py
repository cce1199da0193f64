"""Lightning's training, in this process."""
