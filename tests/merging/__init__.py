"""Histories of pushes beside recruiters: the rules of the merge, simulated in memory."""
