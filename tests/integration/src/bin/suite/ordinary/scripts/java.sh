# java, by way of an interpreter of Java source that needs no compiler: a server with threads, collections, a child.
cat >serve.bsh <<'END'
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.concurrent.*;
String folder = System.getenv("KERNELSEAL_SECRETS_DIR");
String variable = System.getenv("TOKEN");
String content = folder == null ? "" : new String(Files.readAllBytes(new File(folder, "TOKEN").toPath()));
String first(String[] command) {
    Process child = new ProcessBuilder(command).start();
    String line = new BufferedReader(new InputStreamReader(child.getInputStream())).readLine();
    return line + " " + child.waitFor();
}
String answer() {
    StringBuilder lines = new StringBuilder();
    lines.append("variable: " + (variable == null ? "" : variable) + "\n");
    lines.append("file: " + content + "\n");
    pool = Executors.newFixedThreadPool(4);
    pool.submit(new Runnable() { run() { for (int n = 0; n < 50; n++) { byte[] dirt = new byte[1000000]; } } }).get();
    pool.shutdown();
    System.gc();
    lines.append("child: " + first(new String[] { "/bin/sh", "-c", "echo $HOME" }) + "\n");
    lines.append("it has it too: " + first(new String[] { "/bin/sh", "-c", "echo ${#TOKEN}" }).equals((variable == null ? 0 : variable.length()) + " 0") + "\n");
    lines.append("processors: " + (Runtime.getRuntime().availableProcessors() > 0) + "\n");
    lines.append("own: " + new File("/proc/self/exe").getCanonicalPath().endsWith("/bin/java") + "\n");
    return lines.toString();
}
ServerSocket server = new ServerSocket(8083, 5, InetAddress.getByName("127.0.0.1"));
new File("up").createNewFile();
boolean more = true;
while (more) {
    Socket caller = server.accept();
    BufferedReader request = new BufferedReader(new InputStreamReader(caller.getInputStream()));
    String asked = request.readLine();
    while (request.readLine().length() > 0) { }
    more = !asked.contains("/end");
    caller.getOutputStream().write(("HTTP/1.0 200 OK\r\n\r\n" + (more ? answer() : "bye\n")).getBytes());
    caller.close();
}
System.exit(0);
END
finish() { kill $! 2>/dev/null || true; }
/usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseG1GC -Xmx128m -cp /usr/share/java/bsh.jar bsh.Interpreter serve.bsh &
soon test -e up
get 8083 /
get 8083 /end
wait $!
echo "status $?"
