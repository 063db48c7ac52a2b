# redis: allocator steered by a variable before main, part of its configuration a file, a child that saves, a title.
chown redis: .
cat >redis.conf <<END
port 7777
bind 127.0.0.1
dir $WORK
logfile $WORK/log
daemonize yes
pidfile $WORK/redis.pid
include /run/kernelseal/secrets/*/CONF
END
tell() { redis-cli -p 7777 -a hunter2 --no-auth-warning "$@" 2>/dev/null; }
finish() { tell shutdown nosave || cat log; }
up() { as redis redis-server "$WORK/redis.conf" && soon tell ping; }

up
tell set key value
tell get key
tell eval 'return redis.call("strlen", KEYS[1])' 1 key
echo "variable: $(tell memory malloc-stats | grep -o 'opt.narenas: .*')"
echo "file: $(tell config get requirepass | tail -1)"
ps -o user= -p "$(cat redis.pid)"
tr -d '\0' </proc/"$(cat redis.pid)"/cmdline
echo
tell info memory | grep -c ^used_memory_rss:
tell bgsave
soon grep -q 'Background saving terminated with success' log
tell bgrewriteaof
soon grep -q 'Background AOF rewrite finished successfully' log
last=$(cat redis.pid)
tell shutdown save || true
soon gone "$last"

echo "restart"
up
tell get key
last=$(cat redis.pid)
tell shutdown nosave || true
soon gone "$last"
finish() { :; }
grep -c 'Ready to accept connections' log
grep -iE 'fail|denied|not permitted' log | grep -v overcommit || echo "no complaints"
