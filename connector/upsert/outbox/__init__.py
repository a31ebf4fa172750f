"""What was planned and what is proven: every write on disk before it is sent."""
