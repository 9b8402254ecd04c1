import java.io.FileOutputStream;
import java.io.IOException;
import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.net.StandardSocketOptions;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A small HTTP service with a fixed pool of threads and blocking calls: one
 * thread accepts, a thread of the pool serves a connection until it closes.
 * Workers HOST THREADS [WORK...], where HOST is an address or unix:PATH.
 * WORK for every request: append:FILE, fsync:FILE, pipe:FIFO, flock:FILE (a
 * POSIX lock), call:ADDRESS, till, lock, pair, heap:MS (so long a collection).
 * Each line on standard input is something that goes wrong for a while:
 * "sleep 800", "compute 800", "accept 800", "hold 800", "deadlock 800" in ms, "gc".
 */
public class Workers {
  interface Step {
    void run() throws Exception;
  }

  static volatile long sleepUntil, computeUntil, acceptUntil; // System.nanoTime()
  static final ReentrantLock lock = new ReentrantLock(), a = new ReentrantLock(), b = new ReentrantLock();
  static final List<Object[]> heap = new ArrayList<>();
  static final byte[] STAYS = answer("keep-alive"), CLOSES = answer("close");

  static byte[] answer(String connection) {
    return ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: " + connection + "\r\n\r\nok\n").getBytes();
  }

  static void sleepTill(long at) throws InterruptedException {
    long rest = at - System.nanoTime();
    if (rest > 0) TimeUnit.NANOSECONDS.sleep(rest);
  }

  static Step step(String spec) throws Exception {
    String[] parts = spec.split(":", 2);
    String arg = parts.length > 1 ? parts[1] : "";
    switch (parts[0]) {
      case "till":
        return () -> {
          sleepTill(sleepUntil);
          while (System.nanoTime() < computeUntil) {}
        };
      case "lock":
        return () -> {
          lock.lock();
          lock.unlock();
        };
      case "pair":
        return () -> {
          a.lock();
          b.lock();
          b.unlock();
          a.unlock();
        };
      case "append":
      case "fsync": {
        FileChannel f = FileChannel.open(Path.of(arg), StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.APPEND);
        byte[] line = ("GET / 200 ".repeat(50) + "\n").getBytes();
        return () -> {
          f.write(ByteBuffer.wrap(line));
          if (parts[0].equals("fsync")) f.force(true);
        };
      }
      case "pipe": {
        FileOutputStream f = new FileOutputStream(arg);
        byte[] line = ("GET / 200 ".repeat(410).substring(0, 4095) + "\n").getBytes();
        return () -> f.write(line);
      }
      case "flock": {
        // The lock is the process's, so its threads take turns.
        ReentrantLock one = new ReentrantLock();
        FileChannel f = FileChannel.open(Path.of(arg), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        return () -> {
          one.lock();
          try {
            f.lock().release();
          } finally {
            one.unlock();
          }
        };
      }
      case "call": {
        String[] at = arg.split(":");
        ThreadLocal<Socket> upstream = new ThreadLocal<>();
        byte[] get = "GET / HTTP/1.1\r\nHost: lab\r\n\r\n".getBytes();
        return () -> {
          if (upstream.get() == null) {
            upstream.set(new Socket(at[0], Integer.parseInt(at[1])));
            upstream.get().setTcpNoDelay(true);
          }
          upstream.get().getOutputStream().write(get);
          InputStream in = upstream.get().getInputStream();
          StringBuilder got = new StringBuilder();
          while (!got.toString().endsWith("\r\n\r\nok\n")) {
            int c = in.read();
            if (c < 0) throw new IOException("the upstream closed");
            got.append((char) c);
          }
        };
      }
      case "heap": {
        long want = 1_000_000L * Long.parseLong(arg), took = 0;
        while (took < want) {
          for (int i = 0; i < 500; i++) { // 16 MiB, in chains so that marking takes its time
            Object[] head = null;
            for (int j = 0; j < 1024; j++) head = new Object[] {head, null};
            heap.add(head);
          }
          long begin = System.nanoTime();
          System.gc();
          took = System.nanoTime() - begin;
        }
        return () -> {};
      }
    }
    throw new IllegalArgumentException("unknown work: " + spec);
  }

  static void control() {
    try {
      BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
      for (String line; (line = lines.readLine()) != null; ) {
        String[] words = line.split(" ");
        long ns = words.length > 1 ? 1_000_000L * Long.parseLong(words[1]) : 0;
        switch (words[0]) {
          case "sleep": sleepUntil = System.nanoTime() + ns; break;
          case "compute": computeUntil = System.nanoTime() + ns; break;
          case "accept": acceptUntil = System.nanoTime() + ns; break;
          case "gc": System.gc(); break;
          case "hold":
            lock.lock();
            TimeUnit.NANOSECONDS.sleep(ns);
            lock.unlock();
            break;
          case "deadlock": // b and then a, while a request holds a and wants b
            b.lock();
            while (!a.isLocked()) TimeUnit.MILLISECONDS.sleep(1);
            if (a.tryLock(ns, TimeUnit.NANOSECONDS)) a.unlock();
            b.unlock();
            break;
        }
      }
    } catch (Exception e) {
      e.printStackTrace();
      System.exit(1);
    }
  }

  static void serve(SocketChannel conn, List<Step> steps) {
    try (conn) {
      StringBuilder have = new StringBuilder();
      ByteBuffer buf = ByteBuffer.allocate(4096);
      while (true) {
        int end = have.indexOf("\r\n\r\n");
        if (end < 0) {
          buf.clear();
          if (conn.read(buf) < 0) return;
          buf.flip();
          have.append(StandardCharsets.ISO_8859_1.decode(buf));
          continue;
        }
        String head = have.substring(0, end);
        have.delete(0, end + 4);
        String path = head.split(" ")[1];
        if (path.startsWith("/wait/")) {
          Thread.sleep(Long.parseLong(path.substring(6)));
        } else {
          for (Step s : steps) s.run();
        }
        boolean closes = head.contains("Connection: close");
        conn.write(ByteBuffer.wrap(closes ? CLOSES : STAYS));
        if (closes) return;
      }
    } catch (IOException e) {
      // the client is gone
    } catch (Exception e) {
      e.printStackTrace();
    }
  }

  public static void main(String[] args) throws Exception {
    List<Step> steps = new ArrayList<>();
    for (int i = 2; i < args.length; i++) steps.add(step(args[i]));
    boolean unix = args[0].startsWith("unix:");
    ServerSocketChannel server;
    if (unix) {
      server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
      server.bind(UnixDomainSocketAddress.of(args[0].substring(5)), 128);
    } else {
      server = ServerSocketChannel.open();
      server.bind(new InetSocketAddress(args[0], 0), 128);
    }
    ExecutorService pool = Executors.newFixedThreadPool(Integer.parseInt(args[1]));
    SocketAddress at = server.getLocalAddress();
    Thread control = new Thread(Workers::control, "control");
    control.setDaemon(true);
    control.start();
    System.out.println("ready " + (unix ? args[0] : args[0] + ":" + ((InetSocketAddress) at).getPort()));
    while (true) {
      sleepTill(acceptUntil);
      SocketChannel conn = server.accept();
      if (!unix) conn.setOption(StandardSocketOptions.TCP_NODELAY, true);
      pool.execute(() -> serve(conn, steps));
    }
  }
}
