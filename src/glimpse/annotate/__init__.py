"""Cues of whole datasets: made, checked, shown."""
