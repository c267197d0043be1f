"""What all other folders need: errors, files, processes, versions, safe loading."""
