# shellcheck shell=sh
# Settings of the lab, read by its scripts. Every one can be given in the
# environment; the defaults are those of the machines in the Vagrantfile.

: "${LAB_VIP:=172.25.0.100}"
: "${LAB_NET:=172.25.0.0/24}"                  # the segment of the VIP
: "${LAB_REALS:=172.25.0.12 172.25.0.13}"      # the second gets twice the weight
: "${LAB_NAME:=$(hostname)}"                   # what a real's web page says
: "${LAB_PRIORITY:=}"                          # a director's in VRRP; empty = without VRRP
: "${LAB_LVX:=/usr/local/bin/lvx}"             # where lvx is installed
: "${LAB_ETC:=/etc/lvx}"                       # its configuration
: "${LAB_RUN:=/run/lvx-lab}"                   # what scripts leave while they run without systemd
: "${LAB_INIT:=systemd}"                       # systemd, or none: services are plain processes
: "${LAB_EXTRA:=}"                             # further lines of lvx.yaml
: "${LAB_ASK:=}"                               # flags of lvx list and lvx status
: "${LAB_IFACE:=$(ip -o -4 address show to "$LAB_NET" scope global | awk '$2 != "lo" { print $2; exit }')}"

# shellcheck disable=SC2034 # the scripts use it
lab_root=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# say TEXT...: what the lab does, to be told from what programs print.
say() { echo "lab: $LAB_NAME: $*"; }

# die TEXT...
die() {
  say "$*" >&2
  exit 1
}

# typed COMMAND...: shows a command of the README as it would be typed, and
# runs it.
typed() {
  echo "# $*"
  "$@"
}

# background NAME COMMAND...: a process that outlives the script.
background() {
  name=$1
  shift
  mkdir -p "$LAB_RUN"
  "$@" >"$LAB_RUN/$name.log" 2>&1 </dev/null &
}

# patiently COMMAND...: until it succeeds, for half a minute.
patiently() {
  end=$(($(date +%s) + 30))
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt $end ] || return 1
    sleep 0.2
  done
}

[ -n "$LAB_IFACE" ] || die "no interface with an address in $LAB_NET (set LAB_NET or LAB_IFACE)"
