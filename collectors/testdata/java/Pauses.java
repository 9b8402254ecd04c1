/** Fills its heap with objects that stay, collects, and says when it is done. */
public class Pauses {
    static Object[] keep;

    public static void main(String[] args) throws Exception {
        int megabytes = Integer.parseInt(args[0]);
        keep = new Object[megabytes * 1024];
        for (int i = 0; i < keep.length; i++) {
            Object[] chain = new Object[8];
            for (int j = 0; j < chain.length; j++) chain[j] = new byte[100];
            keep[i] = chain;
        }
        System.out.println("ready");
        for (int line = System.in.read(); line >= 0; line = System.in.read()) {
            System.gc();
            System.out.println("collected");
        }
    }
}
