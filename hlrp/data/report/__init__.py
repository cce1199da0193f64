"""What a dataset holds, in numbers and as a page: idle time, lengths, cameras, tasks, statistics, doubtful episodes."""
