import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** A small HTTP service with a heap full of live objects: Service HOST LIVE_MIB. */
public class Service {
  static final class Item {
    Item next;
    long a, b;
  }

  static final List<Item> live = new ArrayList<>();
  static volatile Map<Integer, byte[]> cache = new HashMap<>();

  public static void main(String[] args) throws Exception {
    int mib = Integer.parseInt(args[1]);
    // 32 bytes an item with compressed pointers; chains, so that marking takes its time.
    for (int i = 0; i < mib * 32; i++) {
      Item head = null;
      for (int j = 0; j < 1024; j++) {
        Item item = new Item();
        item.next = head;
        head = item;
      }
      live.add(head);
    }
    System.gc(); // settle: what lives is old from here on
    HttpServer server = HttpServer.create(new InetSocketAddress(args[0], 0), 128);
    server.setExecutor(Executors.newFixedThreadPool(8));
    server.createContext("/", exchange -> {
      String path = exchange.getRequestURI().getPath();
      if (path.startsWith("/gc")) {
        System.gc();
      } else if (path.startsWith("/churn/")) {
        // A cache that keeps nearly all there is, and requests that still allocate.
        long end = System.nanoTime() + 1_000_000L * Long.parseLong(path.substring(7));
        Map<Integer, byte[]> mine = new HashMap<>();
        int i = 0;
        while (System.nanoTime() < end) {
          try {
            mine.put(i++, new byte[256 << 10]);
          } catch (OutOfMemoryError e) {
            mine.clear();
          }
        }
      }
      byte[] body = "ok\n".getBytes();
      exchange.sendResponseHeaders(200, body.length);
      exchange.getResponseBody().write(body);
      exchange.close();
    });
    server.start();
    System.out.println("ready " + args[0] + ":" + server.getAddress().getPort());
    System.in.read(); // until the lab ends
  }
}
