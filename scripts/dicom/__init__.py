"""DICOM in: find, choose and read series. DICOM out: results as objects of the same study."""
