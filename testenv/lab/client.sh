#!/bin/sh
# Asks the VIP for its page and shows who answered. It fails if a request
# does, or if a real gets none.
set -eu
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

"$lab_root/scripts/need" curl ethtool
# A native XDP program on a virtual interface drops the mark that says "the
# hardware adds the checksum".
ethtool -K "$LAB_IFACE" tx off >/dev/null 2>&1 || say "checksum offload of $LAB_IFACE stays as it is"

patiently curl -fs -m 2 "http://$LAB_VIP/" || die "nobody answers on $LAB_VIP"

: "${LAB_REQUESTS:=12}"
say "$LAB_REQUESTS requests: for i in ...; do curl -s http://$LAB_VIP/; done"
answers=
i=0
while [ $i -lt "$LAB_REQUESTS" ]; do
  i=$((i + 1))
  answer=$(curl -fs -m 5 "http://$LAB_VIP/") || die "request $i of $LAB_REQUESTS got no answer"
  echo "$answer"
  answers="$answers$answer
"
done

say "who answered how often:"
printf '%s' "$answers" | sort | uniq -c
want=$(echo "$LAB_REALS" | wc -w)
got=$(printf '%s' "$answers" | sort -u | wc -l)
[ "$got" -eq "$want" ] || die "$got reals answered, not $want"
