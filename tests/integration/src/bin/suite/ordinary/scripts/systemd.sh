# systemd as process 1 of a container: a unit that starts the program by runuser so often, one after another, and hears of
# each end. It stops at the first that is not as it should be.
units=/tmp/units
mkdir -p $units /etc/systemd
: >/etc/machine-id
rm -f /tmp/of-systemd
{
    printf '%s\n' '[Unit]' DefaultDependencies=no '[Service]' Type=oneshot TimeoutStartSec=infinity \
        StandardOutput=append:/tmp/of-systemd StandardError=inherit
    for _ in $(seq "$times"); do
        echo "ExecStart=/usr/sbin/runuser -u nobody -- $app"
    done
    echo 'ExecStart=/bin/echo systemd is through'
} >$units/launched.service
printf '%s\n' '[Unit]' DefaultDependencies=no Wants=launched.service >$units/launched.target
cat >/tmp/first.sh <<'EOF'
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
# (what is there shows the machine's groups, not the container's alone)
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=tests SYSTEMD_UNIT_PATH=/tmp/units: SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
exec /lib/systemd/systemd --system --unit=launched.target --show-status=no </dev/null >/tmp/systemd-log 2>&1
EOF
mkdir -p /sys/fs/cgroup/systemd
(
    echo 0 >/sys/fs/cgroup/systemd/cgroup.procs
    exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc bash /tmp/first.sh
) &
for _ in $(seq $((600 + 30 * times))); do
    ! grep -qs 'systemd is through' /tmp/of-systemd || break
    kill -0 %1 2>/dev/null || break
    sleep 0.1
done
cat /tmp/of-systemd || tail -n 40 /tmp/systemd-log
grep -E 'Failed|failed|SIG' /tmp/systemd-log || true
kill -KILL %1
