#!/usr/bin/busybox sh
# The guest's first and only program: mounts, modules, the run, its results,
# power off. Serial lines: ttyS0 console, ttyS1 output, ttyS2 exit code,
# ttyS3 a tar of /out.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
for tty in 1 2 3; do stty -F /dev/ttyS$tty raw -echo 115200; done
ip link set lo up
rc=0
while read -r module; do
	modprobe "$module" >/dev/ttyS1 2>&1 || rc=125
done </etc/lvx-vm/modules
cd /t || rc=125
if [ "$rc" = 0 ]; then
	setsid /bin/sh /etc/lvx-vm/run </dev/null >/dev/ttyS1 2>&1
	rc=$?
fi
tar c -C /out . >/dev/ttyS3
echo "$rc" >/dev/ttyS2
# Closing a line drains it: all is out before the power goes.
poweroff -f
