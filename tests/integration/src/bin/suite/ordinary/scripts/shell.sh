# A shell session: pipes, jobs, signals, users, namespaces, looking at processes.
echo "variable: ${TOKEN-}"
echo "file: $(cat "${KERNELSEAL_SECRETS_DIR-/nowhere}/TOKEN" 2>/dev/null || true)"
printf 'b\na\n' | sort | tr a-z A-Z
diff <(printf '1\n2\n') <(printf '1\n3\n') || echo "diff: $?"
(exit 3) || echo "subshell: $?"
trap 'echo trapped' USR1
kill -USR1 $$
seq 20 | xargs -P 4 -n 5 echo | wc -l
cat <<END | while read -r word; do echo "read $word"; done
one
two
END

sleep 1000 &
neighbour=$!
soon grep -q sleep /proc/$neighbour/comm
kill -STOP $neighbour
soon grep -q '^State:.*T (stopped)' /proc/$neighbour/status
kill -CONT $neighbour
soon grep -q '^State:.*S (sleeping)' /proc/$neighbour/status

# At its own processes, and at those of others.
cat /proc/self/environ | tr '\0' '\n' | grep ^HOME=
grep -c '\[stack\]' /proc/self/maps
ls /proc/self/fd | wc -l
grep -c VmRSS /proc/self/status
tr '\0' '\n' </proc/$neighbour/environ | grep ^HOME=
readlink /proc/$neighbour/fd/0 /proc/$neighbour/exe
cat /proc/$neighbour/{maps,smaps} | grep -c '\[stack\]'
cat /proc/$neighbour/{stack,syscall,wchan,limits,io,auxv,mountinfo} >/dev/null && echo "read them"
pmap -x $neighbour | grep -c stack
pgrep -f 'sleep 1000' | grep -c "^$neighbour$"
ps -eLo pid,tid,ppid,stat,wchan,rss,user >/dev/null && pgrep -a sleep >/dev/null && echo "saw all"
top -b -n 1 >/dev/null && vmstat >/dev/null && free >/dev/null && uptime >/dev/null && echo "saw the machine"
kill $neighbour
wait $neighbour || echo "killed: $?"

as www-data id -un
echo mine >private
chmod 600 private
as www-data cat private 2>&1 || echo "not allowed: $?"
chroot / /usr/bin/id -u
unshare --user --map-root-user id -u
unshare --user --map-root-user --mount --pid --net --ipc --uts --fork --mount-proc sh -c 'echo "number $$"; ps -e | wc -l'
mkdir mounted
unshare --mount sh -c 'mount -t tmpfs tmpfs mounted && echo hidden >mounted/file && cat mounted/file'
ls mounted | wc -l
