"""What all benchmarks share: measuring in turns, statistics, results as JSON, the terminal."""
