"""The commands of `hiringcenter`."""
