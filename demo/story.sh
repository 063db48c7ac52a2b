#!/bin/sh
# The story of the demo. Runs as root, in a guest or on this machine; see `demo/run`.
#
#   story.sh KERNELSEAL PROGRAMS CONFIG
#
# KERNELSEAL is the agent's program, PROGRAMS the folder with demo-app and demo-attack. Exit status
# 0 only if the program had its secrets, every attempt was refused with EPERM, and the agent
# reported each.
set -u

kernelseal=$1
programs=$2
config=$3
refused="Operation not permitted" # what EPERM reads as; LC_ALL=C below
pace=${DEMO_PACE:-0.3}
work=$(mktemp -d "${TMPDIR:-/tmp}/kernelseal-demo.XXXXXX")
# as programs are installed: where root alone may write
mkdir -p /opt
installed=$(mktemp -d /opt/kernelseal-demo.XXXXXX)
cp "$programs/demo-app" "$installed/"
events=$work/events
agent='' app=''
faults=0
LC_ALL=C
export LC_ALL

if [ -n "${DEMO_BOLD-$([ -t 1 ] && echo yes)}" ]; then bold='\033[1m' plain='\033[0m'; else bold='' plain=''; fi
tell() { printf "\n$bold%s$plain\n" "$*"; sleep "$pace"; }
show() { sed 's/^/     /'; }
fault() { printf '  !! %s\n' "$*"; faults=$((faults + 1)); }

end() {
    [ -z "$app" ] || kill "$app" 2>/dev/null
    [ -z "$agent" ] || kill "$agent" 2>/dev/null
    wait
    # what the demo loaded into the kernel goes with it
    [ -n "$was_loaded" ] || "$kernelseal" cleanup >/dev/null 2>&1
    rm -rf "$work" "$installed"
}
was_loaded=$(ls -d /sys/fs/bpf/kernelseal/v* 2>/dev/null)
trap end EXIT
trap 'exit 130' INT TERM

# Waits, at most $1 tenths of a second, until the command after it succeeds.
await() {
    left=$1
    shift
    until "$@"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
}

count() { grep -c "\"type\":\"$1\"" "$events" 2>/dev/null; }
has() { [ "$(count "$1")" -ge "$2" ]; }
agent_is_up_or_gone() { "$kernelseal" status 2>/dev/null | grep -q enforce || ! kill -0 "$agent" 2>/dev/null; }

# Starts the ordinary program, as a service would: without a terminal.
start_app() {
    # (what one before it said is not what it says)
    : >"$work/said"
    setsid "$installed/demo-app" >"$work/said" 2>&1 </dev/null &
    app=$!
    await 100 grep -q demo-app: "$work/said"
}

# One attempt of root's: what the agent calls it, a line to show, and the command itself.
attempts=0
attempt() {
    access=$1
    line=$2
    shift 2
    attempts=$((attempts + 1))
    before=$(reported "$access")
    printf '   # %s\n' "$line"
    if said=$("$@" 2>&1 >/dev/null); then
        fault "it worked"
    else
        printf '%s\n' "$said" | head -n 1 | show
        case $said in *"$refused"*) ;; *) fault "it failed, but not with \"$refused\"" ;; esac
    fi
    await 50 has_reported "$access" $((before + 1)) || fault "no BLOCKED event for it"
    sleep "$pace"
}
reported() { grep '"type":"BLOCKED"' "$events" | grep -c "\"access\":\"$1\""; }
has_reported() { [ "$(reported "$1")" -ge "$2" ]; }

# A field of an event.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

printf 'kernelseal demo, Linux %s, user %s\n' "$(uname -r)" "$(id -u)"
password=pw-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')

tell "1. As it usually is: a program gets its password by its environment."
DB_PASSWORD=$password start_app || fault "demo-app did not start"
printf '   # cat /proc/%s/environ\n' "$app"
tr '\0' '\n' <"/proc/$app/environ" | grep DB_PASSWORD | show
open_ways=0
for way in attach seize vm-readv pidfd-getfd; do
    "$programs/demo-attack" $way "$app" >/dev/null 2>&1 && open_ways=$((open_ways + 1))
done
(: <"/proc/$app/mem") 2>/dev/null && open_ways=$((open_ways + 1))
echo "   Root reads it. The same for memory, debuggers, process_vm_readv, pidfd_getfd: $open_ways of 5 ways are open."
kill "$app"
wait "$app" 2>/dev/null

tell "2. The agent starts, with the password in its own environment."
echo "   # DEMO_PASSWORD=... kernelseal run --config demo/config.yaml"
DEMO_PASSWORD=$password "$kernelseal" run --config "$config" >"$events" 2>"$work/log" &
agent=$!
# it loads its programs into the kernel first: seconds in emulation, a fraction of one otherwise
await 600 agent_is_up_or_gone
if ! kill -0 "$agent" 2>/dev/null || ! "$kernelseal" status 2>/dev/null | grep -q enforce; then
    show <"$work/log"
    echo
    echo "VERDICT: FAILED. The agent did not start."
    exit 1
fi
"$kernelseal" status | show

tell "3. The same program starts, unchanged, and without a password of its own."
echo "   # demo-app &"
start_app || fault "demo-app did not start"
show <"$work/said"
grep -q "environment DB_PASSWORD=$password\$" "$work/said" || fault "its environment does not have the password"
grep -q "file /run/kernelseal/secrets/[0-9]*/DB_PASSWORD: $password\$" "$work/said" || fault "its file does not have the password"
file=$(sed -n 's/.*file \(\/[^:]*\): .*/\1/p' "$work/said")
: "${file:=/run/kernelseal/secrets/$app/DB_PASSWORD}"
await 50 has SEALED 1 || fault "no SEALED event"

tell "4. Root, next to it, wants that password."
attempt environ "cat /proc/$app/environ" cat "/proc/$app/environ"
attempt mem "cat /proc/$app/mem" cat "/proc/$app/mem"
attempt ptrace "attach to $app, as gdb does" "$programs/demo-attack" attach "$app"
attempt ptrace "seize $app, as strace does" "$programs/demo-attack" seize "$app"
attempt process_vm "process_vm_readv from $app" "$programs/demo-attack" vm-readv "$app"
attempt ptrace "pidfd_getfd from $app" "$programs/demo-attack" pidfd-getfd "$app"
attempt secret_file "cat $file" cat "$file"
attempt secret_file "cat /proc/$app/root$file" cat "/proc/$app/root$file"
attempt mem "cat /proc/$agent/mem    (the agent itself)" cat "/proc/$agent/mem"

tell "5. Somebody copies a program to where anybody may, under the right name, and starts that."
cp "$programs/demo-app" "$work/demo-app"
printf '   # cp .../demo-app %s; %s\n' "$work" "$work/demo-app"
# (a copy that had the password would say so, and stay)
sh -c "$work/demo-app" >"$work/copy" 2>&1 </dev/null &
copy=$!
await 100 has REFUSED 1 || fault "no REFUSED event"
kill "$copy" 2>/dev/null
wait "$copy" 2>/dev/null
if grep -q "$password" "$work/copy"; then fault "the copy has the password"; fi
echo "   It did not start. The agent says why:"
grep '"type":"REFUSED"' "$events" | field reason | show

tell "6. What the agent reported, one JSON object a line:"
grep '"type":"SEALED"' "$events" | show
grep '"type":"BLOCKED"' "$events" | head -n 1 | show
echo "   ... and so on. All BLOCKED events:"
grep '"type":"BLOCKED"' "$events" | while read -r event; do
    who=$(echo "$event" | field process)
    what=$(echo "$event" | field access)
    target=$(echo "$event" | field target)
    printf '     %-12s reached for  %-12s of  %s\n' "$who" "$what" "$target"
done
blocked=$(count BLOCKED)
if grep -q "$password" "$events" "$work/log"; then
    fault "the password is in the events or the log"
fi

echo
if [ "$faults" -eq 0 ]; then
    printf "${bold}VERDICT: SEALED.$plain"
    echo " The program had its password in its environment and in its file;"
    echo "a copy under its name did not start; root tried $attempts ways, was refused $attempts times with \"$refused\", and was reported $blocked times."
    exit 0
fi
printf "${bold}VERDICT: FAILED.$plain %s\n" "$faults of the things above are not as they should be (marked !!)."
exit 1
