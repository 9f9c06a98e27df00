"""Occluders for real crops, and drawn people whose visibility is known exactly."""
