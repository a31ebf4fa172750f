"""What every run needs: its session, signals, progress, alerts and words."""
