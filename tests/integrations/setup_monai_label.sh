#!/usr/bin/env bash
# The PACS of the server's DICOMweb datastore.
exec bash "$(dirname "$0")/setup_pacs.sh"
