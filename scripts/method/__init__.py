"""The paper: the method's composition, its steps and its networks."""
