#!/bin/sh
# Makes this machine a real server: a web server that says the machine's name,
# and the VIP on lo.
set -eu
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

"$lab_root/scripts/need" nginx curl

if [ "$LAB_INIT" = systemd ]; then
  echo "$LAB_NAME" >/var/www/html/index.html
  systemctl enable --quiet --now nginx
else
  mkdir -p "$LAB_RUN/html"
  echo "$LAB_NAME" >"$LAB_RUN/html/index.html"
  cat >"$LAB_RUN/nginx.conf" <<END
daemon off;
worker_processes 1;
pid $LAB_RUN/nginx.pid;
error_log $LAB_RUN/nginx-error.log;
events {}
http {
  access_log $LAB_RUN/nginx-access.log;
  client_body_temp_path $LAB_RUN/body;
  proxy_temp_path $LAB_RUN/proxy;
  fastcgi_temp_path $LAB_RUN/fastcgi;
  uwsgi_temp_path $LAB_RUN/uwsgi;
  scgi_temp_path $LAB_RUN/scgi;
  server {
    listen 80;
    root $LAB_RUN/html;
  }
}
END
  background nginx nginx -c "$LAB_RUN/nginx.conf" -e "$LAB_RUN/nginx-error.log"
fi

if [ "$LAB_INIT" = systemd ]; then
  mkdir -p "$LAB_ETC"
  echo "VIPS=--vip $LAB_VIP" >"$LAB_ETC/real.env"
  install -m 0644 "$lab_root/contrib/lvx-real.service" /etc/systemd/system/lvx-real.service
  systemctl daemon-reload
  systemctl enable --quiet lvx-real
  typed systemctl restart lvx-real
  typed "$LAB_LVX" real status --vip "$LAB_VIP"
else
  typed "$LAB_LVX" real up --vip "$LAB_VIP" --state "$LAB_RUN/real.json"
  typed "$LAB_LVX" real status --vip "$LAB_VIP" --state "$LAB_RUN/real.json"
fi

own=$(ip -o -4 address show dev "$LAB_IFACE" scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
patiently curl -fs -m 2 "http://$own/" || die "the web server does not answer on $own"
typed curl -s "http://$own/"
