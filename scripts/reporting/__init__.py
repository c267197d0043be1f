"""What a run shows: result files, pictures, summary.csv and report.html."""
