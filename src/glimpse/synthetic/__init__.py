"""Rendered people whose visibility is known exactly, and occluders for real crops."""
