#!/bin/sh
# The first and only program of a test machine: makes it look like a Debian that has just booted, runs the job that is
# shared with it, and switches off.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
# A mount namespace that a test makes must not see or change this one's mounts.
mount --make-rshared /
# Each tunnel's module would put a device of its own into every namespace.
echo 1 > /proc/sys/net/core/fb_tunnels_only_for_init_net
modprobe --all $(cat /etc/modules)
mkdir -p /run/netns /programs /job /var/lib
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 programs /programs
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 job /job
ip link set lo up
echo "@@ booted $(uname -r)"
sh /job/run
echo "@@ done"
# The machine's shutdown is the end of qemu (-no-reboot).
echo 1 > /proc/sys/kernel/sysrq
echo b > /proc/sysrq-trigger
