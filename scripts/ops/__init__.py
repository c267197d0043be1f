"""Pure, batched tensor functions: the equations of the method."""
