"""Real processes against a real server that counts every request exactly, in real time."""
