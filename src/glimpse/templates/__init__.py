"""HTML pages that stand alone: templates, styles, and the few shapes that they draw."""
