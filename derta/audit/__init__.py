"""The audit: the outputs that the authors released, scored again by rule."""
