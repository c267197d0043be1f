"""Evaluation: synthetic lesions, metrics, statistics, tables and figures (Tables 1 and 2, Figure 3)."""
