# nginx: a master of root's that leaves its terminal, workers of another user, reload, and a new program in its place.
# Its only variable without more ado is TZ; its file is a piece of its configuration.
mkdir -p /var/lib/nginx www
chmod 755 .
echo '<p>served</p>' >www/index.html
cat >nginx.conf <<END
user www-data;
worker_processes 2;
pid $WORK/nginx.pid;
error_log $WORK/error.log;
events {}
http {
    access_log $WORK/access.log;
    server {
        listen 127.0.0.1:8080;
        root $WORK/www;
        set \$found "";
        include /run/kernelseal/secrets/*/SNIPPET;
        location /variable { return 200 "variable: \$time_local\n"; }
        location /file { return 200 "file: \$found\n"; }
    }
}
END
finish() { pkill -QUIT nginx && soon gone "$(pgrep -o nginx || echo 0)"; cat error.log; }
titles() { for pid in $(pgrep -x nginx); do echo "$(ps -o user= -p $pid) $(tr -d '\0' </proc/$pid/cmdline | sed 's/process.*/process/')"; done | sort; }
ask() {
    get 8080 /
    get 8080 /variable | sed 's/ .* / /'
    get 8080 /file
}
/usr/sbin/nginx -c "$WORK/nginx.conf"
soon test -s nginx.pid
titles
ask

echo "reload"
first=$(pgrep -f '^nginx: worker' | sort | tr '\n' ' ')
kill -HUP "$(cat nginx.pid)"
soon bash -c "set -- \$(pgrep -f '^nginx: worker' | sort); [ \"\$*\" != '${first% }' ] && [ \$# = 2 ]"
ask

# The new master is executed anew and has files of its own. It may not read the old one's, which the pattern also names.
sed -i /include/d nginx.conf
echo "a new master, started by the old one"
old=$(cat nginx.pid)
kill -USR2 "$old"
soon test -s nginx.pid.oldbin
soon bash -c '[ $(pgrep -f "^nginx: worker" | wc -l) = 4 ]'
kill -QUIT "$old"
soon gone "$old"
get 8080 /
get 8080 /variable | sed 's/ .* / /'
titles
wc -l <access.log
finish() { :; }
last=$(cat nginx.pid)
kill -QUIT "$last"
soon gone "$last"
grep -E '\[(warn|error|crit|alert|emerg)\]' error.log || echo "no complaints"
