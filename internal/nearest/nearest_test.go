package nearest

import "testing"

func TestTo(t *testing.T) {
	known := []string{"fs.frozen", "fs.full", "mem.oom_kill", "cpu.contention"}
	for in, want := range map[string]string{
		"fs.forzen": "fs.frozen", "FS.FROZEN": "fs.frozen", "cpu.contetion": "cpu.contention", "oom_kill": "",
		"mem.oomkill": "mem.oom_kill", "zebra": "", "": "",
	} {
		if got := To(in, known); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ab", "ba", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
