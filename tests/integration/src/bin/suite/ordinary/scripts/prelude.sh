# What all scripts here begin with. They run in a folder of their own; what they print is compared with what they
# print where there is no kernelseal. Of the secret they tell in lines that begin with "variable:" and "file:".
set -eu -o pipefail
cd "$WORK"
trap 'status=$?; trap - EXIT; finish; jobs -p | xargs -r kill -KILL 2>/dev/null || true; exit $status' EXIT
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
finish() { :; }

# Waits until a command succeeds.
soon() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "it never came to this: $*"
    return 1
}
# Waits until a process that is not ours is gone.
gone() { [ ! -e "/proc/$1" ] || [ "$(cut -d' ' -f3 "/proc/$1/stat")" = Z ]; }
# The body of what an HTTP server answers.
get() {
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
    tr -d '\r' <&3 | sed '1,/^$/d'
    exec 3>&-
}
as() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
