# A Go program: a server whose run time makes threads and interrupts them with signals, and a child.
finish() { kill $! 2>/dev/null || true; }
serve-go 127.0.0.1:8084 >up &
soon grep -q listening up
get 8084 /
get 8084 /
get 8084 /end
wait $!
echo "status $?"
