"""How the networks are trained and calibrated."""
