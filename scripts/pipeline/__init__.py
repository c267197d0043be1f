"""Cases: find, read, transform, infer, restore, write and record."""
