"""The bundle as a MONAI Deploy application; runs in an environment with the MONAI Deploy App SDK."""
