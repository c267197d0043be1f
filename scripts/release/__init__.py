"""The self-contained bundle for MONAI Label, the Model Zoo and MONAI Deploy: folder, zip, checksums, parts list."""
