#!/bin/sh
# Builds lvx from this checkout and installs it as $LAB_LVX.
set -eu
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# The Go of Debian 12 itself is too old to fetch another. That of its
# backports fetches the one that go.mod names and checks it against Go's
# checksum database.
if ! command -v go >/dev/null; then
  say "installing Go from Debian's backports"
  echo 'deb http://deb.debian.org/debian bookworm-backports main' >/etc/apt/sources.list.d/lvx-lab-backports.list
  apt-get -q update
  DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
    -t bookworm-backports golang-go ca-certificates
fi

say "building lvx"
cd "$lab_root"
mkdir -p "$(dirname "$LAB_LVX")"
# No version control stamp: a synced folder is not a checkout.
HOME=${HOME:-/root} GOTOOLCHAIN=auto go build -trimpath -buildvcs=false -o "$LAB_LVX" ./cmd/lvx
"$LAB_LVX" version
