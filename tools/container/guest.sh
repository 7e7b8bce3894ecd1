#!/bin/bash
# Creates the guest of CULVERT_GUEST (an xl configuration file) unless it is there, making the functions of
# CULVERT_GUEST_DEVICES assignable first, and stays as long as the guest does. /tmp/created is there meanwhile.
set -euo pipefail
rm -f /tmp/created
xl() { node tools/culvert/main.ts --url "$NATS_URL" --creds "$CULVERT_CREDS" xl "$@"; }
name=$(sed -nE 's/^[[:space:]]*name[[:space:]]*=[[:space:]]*"([^"]+)".*/\1/p' "$CULVERT_GUEST")
trap 'exit 0' TERM INT

if ! xl domid "$name" >/dev/null 2>&1; then
  for device in ${CULVERT_GUEST_DEVICES:-}; do xl pci-assignable-add "$device"; done
  xl create "$CULVERT_GUEST"
fi
xl list
touch /tmp/created
while xl domid "$name" >/dev/null 2>&1; do sleep 5 & wait $!; done
rm -f /tmp/created
echo "$name is gone"
