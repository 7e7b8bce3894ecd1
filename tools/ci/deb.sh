#!/usr/bin/env bash
# Unpacks Debian packages below a folder: no root needed, nothing installed, the system's apt untouched.
#   deb.sh SUITE FOLDER PACKAGE...
# Signatures are checked with Debian's keyring. No dependencies, no maintainer scripts. What was unpacked before stays.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
suite=$1 folder=$2
shift 2
mkdir -p "$folder/.unpacked"
folder=$(realpath "$folder")

todo=()
for name; do [ -e "$folder/.unpacked/$name" ] || todo+=("$name"); done
[ ${#todo[@]} -gt 0 ] || exit 0

# The archive that the machine uses already, so that a mirror or a proxy set up for it serves us too.
archive=$(grep -rhoE '[a-z+]+://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/ 2>/dev/null |
  tr -d ' ' | head -n 1 || true)
[ -n "$archive" ] || { echo "deb.sh: apt has no Debian archive in its sources" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{none,lists/partial,cache/archives/partial,debs}
cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources";
Dir::Etc::SourceParts "$work/none";
Dir::State::Lists "$work/lists";
Dir::State::Status "/dev/null";
Dir::Cache "$work/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "2";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$work/sources"
export APT_CONFIG=$work/apt.conf
apt-get -qq update
(cd "$work/debs" && apt-get -qq download "${todo[@]}")
for name in "${todo[@]}"; do
  dpkg-deb -x "$work/debs/$name"_*.deb "$folder"
  touch "$folder/.unpacked/$name"
done
