"""Histories of pushes while recruiters edit: the rules of the merge, simulated in memory."""
