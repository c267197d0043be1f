"""DICOM in (finding, choosing and reading series) and DICOM out (results as objects of the same study)."""
