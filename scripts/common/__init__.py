"""What every room needs: errors, files, processes, versions, safe loading."""
