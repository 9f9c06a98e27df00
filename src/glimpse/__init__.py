"""glimpse finds a person again when only part of them can be seen."""
