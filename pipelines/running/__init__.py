"""What every run needs: its session, progress, alerts and words."""
