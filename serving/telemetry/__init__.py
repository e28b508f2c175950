"""What a replica tells of itself: logs, counters, statistics, metrics and traces."""
