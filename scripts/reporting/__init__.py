"""What a person gets to see of a run: result files, pictures, summary.csv and report.html."""
