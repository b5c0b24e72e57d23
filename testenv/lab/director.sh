#!/bin/sh
# Makes this machine a director: the README's configuration, and lvx.
set -eu
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

mkdir -p "$LAB_ETC"
config=$LAB_ETC/lvx.yaml
{
  echo "interface: $LAB_IFACE"
  echo
  echo "services:"
  echo "  - name: web"
  echo "    listen: [\"$LAB_VIP:80/tcp\"]"
  echo "    scheduler: wrr"
  echo "    reals:"
  weight=1
  for real in $LAB_REALS; do
    echo "      - {address: $real, weight: $weight}"
    weight=2
  done
  if [ -n "$LAB_PRIORITY" ]; then
    echo
    echo "vrrp:"
    echo "  - name: VI_1"
    echo "    interface: $LAB_IFACE"
    echo "    virtual_router_id: 51"
    echo "    priority: $LAB_PRIORITY"
    echo "    addresses: [$LAB_VIP/32]"
  fi
  [ -z "$LAB_EXTRA" ] || printf '\n%s\n' "$LAB_EXTRA"
} >"$config"
typed cat "$config"
typed "$LAB_LVX" check -c "$config"

if [ "$LAB_INIT" = systemd ]; then
  install -m 0644 "$lab_root/contrib/lvx.service" /etc/systemd/system/lvx.service
  systemctl daemon-reload
  systemctl enable --quiet lvx
  typed systemctl restart lvx
else
  echo "# $LAB_LVX run -c $config &"
  background lvx "$LAB_LVX" run -c "$config"
fi

# shellcheck disable=SC2086 # flags, split on purpose
patiently "$LAB_LVX" status $LAB_ASK || {
  [ ! -e "$LAB_RUN/lvx.log" ] || cat "$LAB_RUN/lvx.log" >&2
  die "lvx does not come up"
}
# shellcheck disable=SC2086
typed "$LAB_LVX" list -n $LAB_ASK
# shellcheck disable=SC2086
typed "$LAB_LVX" status $LAB_ASK
