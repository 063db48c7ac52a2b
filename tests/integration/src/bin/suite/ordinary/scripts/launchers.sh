# Launchers that wait for what they start by WUNTRACED or by SIGCHLD. None has a terminal, and none may see a stop: some stop
# themselves then, and nobody continues them.
# Runs a launcher so often, each in a session of its own.
each() {
    local name=$1
    shift
    for _ in $(seq "$times"); do
        timeout -k 5 60 setsid -w "$@" 2>err || {
            echo "$name: status $?"
            cat err
            return 1
        }
    done
    echo "$name is through"
}
each su su -s /bin/bash -c $app nobody
each runuser runuser -u nobody -- $app
each nsenter nsenter -t $$ -p -m -- $app
each sudo sudo -u nobody -- $app

cat >handler.pl <<'EOF'
$| = 1;
my $heard = 0;
$SIG{CHLD} = sub { $heard++ };
for (1 .. $ARGV[0]) {
    my $child = fork;
    if (!$child) { exec $ARGV[1]; exit 1 }
    while (waitpid($child, 0) != $child) { }
}
print "perl heard of ", $heard, "\n";
EOF
timeout $((60 + 3 * times)) perl handler.pl "$times" $app

cat >handler.py <<'EOF'
import signal, subprocess, sys
heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
for _ in range(int(sys.argv[1])):
    subprocess.run([sys.argv[2]], check=True)
print("python heard of", len(heard))
EOF
timeout $((60 + 3 * times)) python3 handler.py "$times" $app
