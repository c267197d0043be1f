#!/usr/bin/env bash
# A PACS for the tests, from Debian; its service is not needed. iproute2 brings a network namespace's loopback up.
set -euo pipefail
plugin=/usr/share/orthanc/plugins/libOrthancDicomWeb.so
command -v Orthanc >/dev/null && command -v ip >/dev/null && [[ -e $plugin ]] && exit 0
apt-get update -qq
# Orthanc's service would listen on all interfaces: policy-rc.d keeps it from being started by the installation.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get install -y -qq --no-install-recommends orthanc orthanc-dicomweb iproute2
