"""The systems PHANES is compared with: one file a system, one protocol (`protocol.py`)."""
