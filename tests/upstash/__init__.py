"""What Upstash's unmodified clients do, run in environments of their own."""
