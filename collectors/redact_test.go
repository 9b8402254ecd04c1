package collectors

import (
	"bytes"
	"strings"
	"testing"
)

func redactArgs(args ...string) string {
	return string(Redact(nil, []byte(strings.Join(args, "\x00")+"\x00")))
}

func TestRedact(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nginx", "-g", "daemon off;"}, "nginx -g daemon off;"},
		{[]string{"postgres: app postgres 127.0.0.1(59460) SELECT waiting"}, "postgres: app postgres 127.0.0.1(59460) SELECT waiting"},
		{[]string{"app", "--password=hunter2", "--port=80"}, "app --password=*** --port=80"},
		{[]string{"app", "--password", "two words", "--port"}, "app --password *** --port"},
		{[]string{"app", "--password", "-dash", "x"}, "app --password *** x"},
		{[]string{"app", "--ask-password", "--port", "80"}, "app --ask-password --port 80"},
		{[]string{"mysql", "-uroot", "-phunter2", "shop"}, "mysql -uroot -p*** shop"},
		{[]string{"mysql", "-p", "shop"}, "mysql -p shop"},
		{[]string{"/usr/bin/mysqldump", "-phunter2"}, "/usr/bin/mysqldump -p***"},
		{[]string{"mkdir", "-p", "/a"}, "mkdir -p /a"},
		{[]string{"ssh", "-p22", "host"}, "ssh -p22 host"},
		{[]string{"sh", "-c", "mysql -phunter2 shop"}, "sh -c mysql -p*** shop"},
		{[]string{"sh", "-c", `app --token "a b c" --x 1`}, "sh -c app --token *** --x 1"},
		{[]string{"sh", "-c", `app --token="a b c" --x 1`}, "sh -c app --token=*** --x 1"},
		{[]string{"sh", "-c", "app --secret s3 --x 1"}, "sh -c app --secret *** --x 1"},
		{[]string{"sshpass", "-p", "hunter2", "ssh", "h"}, "sshpass -p *** ssh h"},
		{[]string{"sshpass", "-phunter2", "ssh", "h"}, "sshpass -p*** ssh h"},
		{[]string{"redis-cli", "-a", "hunter2", "ping"}, "redis-cli -a *** ping"},
		{[]string{"curl", "-u", "me:hunter2", "http://x/"}, "curl -u *** http://x/"},
		{[]string{"curl", "-H", "Authorization: Bearer abc.def", "http://x/"}, "curl -H Authorization: *** http://x/"},
		{[]string{"sh", "-c", `curl -H "Authorization: Bearer abc.def" http://x/`}, "sh -c curl -H \"Authorization: *** http://x/"},
		{[]string{"curl", "-HX-Api-Key: abc", "http://x/"}, "curl -HX-Api-Key: *** http://x/"},
		{[]string{"psql", "postgres://me:hunter2@db:5432/shop?sslmode=off"}, "psql postgres://me:***@db:5432/shop?sslmode=off"},
		{[]string{"psql", "postgres://me:hun/ter@2@db/shop"}, "psql postgres://me:***@db/shop"},
		{[]string{"git", "clone", "https://ghp_0123456789abcdefghij0123456789abcdef@github.com/x"}, "git clone https://***@github.com/x"},
		{[]string{"wget", "http://h:80/a@b?x=1&token=abc&y=2"}, "wget http://h:80/a@b?x=1&token=***&y=2"},
		{[]string{"env", "AWS_SECRET_ACCESS_KEY=wJalr/bPx", "DB_PASS=x", "HOME=/root", "app"}, "env AWS_SECRET_ACCESS_KEY=*** DB_PASS=*** HOME=/root app"},
		{[]string{"app", "AKIAIOSFODNN7EXAMPLE"}, "app ***"},
		{[]string{"app", "--id=AKIAIOSFODNN7EXAMPLE"}, "app --id=***"},
		{[]string{"java", "-Djavax.net.ssl.keyStorePassword=changeit", "-Xmx1g", "-jar", "a.jar"}, "java -Djavax.net.ssl.keyStorePassword=*** -Xmx1g -jar a.jar"},
		{[]string{"openssl", "enc", "-passin", "pass:x", "-in", "f"}, "openssl enc -passin *** -in f"},
		{[]string{"env", "MYSQL_PWD=", "mysql", "-phunter2"}, "env MYSQL_PWD= *** -p***"},
		{[]string{"sh", "-c", "PASS= curl -u me:hunter2 h"}, "sh -c PASS= *** -u *** h"},
		{[]string{"app", "", "x"}, "app  x"},
		{nil, ""},
	} {
		if got := redactArgs(c.args...); got != c.want {
			t.Errorf("%q:\n got %q\nwant %q", c.args, got, c.want)
		}
	}
}

func TestRedactCuts(t *testing.T) {
	if got := redactArgs(strings.Repeat("a b ", 500)); len(got) != maxCmdline {
		t.Errorf("%d bytes, want %d", len(got), maxCmdline)
	}
	got := string(Redact([]byte("kept"), []byte("x\x00")))
	if got != "keptx" {
		t.Errorf("got %q", got)
	}
	dst, raw := make([]byte, 0, 512), []byte("app\x00--password=x\x00postgres://a:b@c\x00")
	if n := testing.AllocsPerRun(100, func() { Redact(dst, raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRedact plants a secret in each of the known ways between arguments that
// may be anything.
func FuzzRedact(f *testing.F) {
	f.Add([]byte("app\x00-x"), []byte("--y\x00"), uint8(0))
	f.Add([]byte("sh\x00-c\x00mysql"), []byte("\"' @:/?&="), uint8(3))
	f.Add([]byte("Pw="), []byte("x"), uint8(6))
	f.Fuzz(func(t *testing.T, before, after []byte, how uint8) {
		const secret = "Zq7secretZq7"
		ways := []string{
			"--password=" + secret, "--token\x00" + secret, "DB_PASSWORD=" + secret,
			"postgres://me:" + secret + "@host/db", "http://h/?api_key=" + secret + "&x=1",
			"-Dx.secret=" + secret, "mysql\x00-p" + secret, "curl\x00-u\x00me:" + secret,
		}
		if bytes.Contains(before, []byte(secret)) || bytes.Contains(after, []byte(secret)) {
			t.Skip()
		}
		raw := append(bytes.Clone(before), 0)
		raw = append(append(raw, ways[int(how)%len(ways)]...), 0)
		raw = append(raw, after...)
		out := Redact(nil, raw)
		if len(out) > maxCmdline || bytes.IndexByte(out, 0) >= 0 || bytes.Contains(out, []byte(secret)) {
			t.Fatalf("%q\nbecame %q", raw, out)
		}
	})
}
