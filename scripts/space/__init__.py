"""MNI152: the template, registration, and where a slice lies."""
