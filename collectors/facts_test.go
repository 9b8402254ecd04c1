package collectors

import (
	"strings"
	"testing"
)

func TestUnitAndContainer(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	short := id[:12]
	for _, c := range []struct{ name, cgroup, unit, container string }{
		{"systemd v2", "0::/system.slice/nginx.service", "nginx.service", ""},
		{"v2, delegated", "0::/system.slice/foo.service/payload", "foo.service", ""},
		{"v2, user unit", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/bar.service", "bar.service", ""},
		{"v2, session", "0::/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""},
		{"v2, init", "0::/init.scope", "init.scope", ""},
		{"v2, template", "0::/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", ""},
		{"v2 root", "0::/", "", ""},
		{"slice only", "0::/system.slice", "", ""},
		{"v1", "12:memory:/system.slice/a.service;11:cpu,cpuacct:/;1:name=systemd:/system.slice/nginx.service", "nginx.service", ""},
		{"hybrid", "12:memory:/other;1:name=systemd:/system.slice/nginx.service;0::/system.slice/nginx.service", "nginx.service", ""},
		{"newlines", "1:name=systemd:/system.slice/nginx.service\n0::/\n", "nginx.service", ""},
		{"outside namespace", "0::/../../system.slice/nginx.service", "nginx.service", ""},
		{"docker v1", "4:memory:/docker/" + id + ";1:name=systemd:/docker/" + id, "", short},
		{"docker v2 systemd", "0::/system.slice/docker-" + id + ".scope", "docker-" + id + ".scope", short},
		{"docker hybrid", "5:cpu:/docker/" + id + ";0::/system.slice/containerd.service", "containerd.service", short},
		{"containerd", "0::/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:" + id, "containerd.service", short},
		{"kubepods cgroupfs", "3:pids:/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/" + id, "", short},
		{"kubepods systemd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + id + ".scope", "cri-containerd-" + id + ".scope", short},
		{"crio", "0::/kubepods.slice/crio-" + id + ".scope/container", "crio-" + id + ".scope", short},
		{"podman", "0::/machine.slice/libpod-" + id + ".scope/container", "libpod-" + id + ".scope", short},
		{"podman's monitor", "0::/machine.slice/libpod-conmon-" + id + ".scope", "libpod-conmon-" + id + ".scope", ""},
		{"lxc v1", "4:memory:/lxc/web1", "", "web1"},
		{"lxc v2", "0::/lxc.payload.web1/system.slice/nginx.service", "nginx.service", "web1"},
		{"lxd", "0::/lxc.payload/web1", "", "web1"},
		{"nspawn", `0::/machine.slice/machine-my\x2dbox.scope`, `machine-my\x2dbox.scope`, "my-box"},
		{"nspawn service", "0::/machine.slice/systemd-nspawn@box.service/payload", "systemd-nspawn@box.service", "box"},
		{"not an id", "0::/system.slice/backup-" + strings.Repeat("z", 64) + ".service", "backup-" + strings.Repeat("z", 64) + ".service", ""},
		{"garbage", ";;:x:\n::", "", ""},
		{"empty", "", "", ""},
	} {
		if got := UnitOf(c.cgroup); got != c.unit {
			t.Errorf("%s: unit %q, want %q", c.name, got, c.unit)
		}
		if got := ContainerOf(c.cgroup); got != c.container {
			t.Errorf("%s: container %q, want %q", c.name, got, c.container)
		}
	}
}

func FuzzUnitAndContainer(f *testing.F) {
	f.Add("12:memory:/a;0::/lxc.payload.x/y.service")
	f.Fuzz(func(t *testing.T, s string) {
		if u := UnitOf(s); u != "" && !strings.Contains(s, u) {
			t.Fatalf("unit %q is not in %q", u, s)
		}
		ContainerOf(s)
	})
}

func TestJoinLines(t *testing.T) {
	var dst [12]byte
	if n := joinLines(dst[:], []byte("a\n\nbb\nccccccccccc\n")); string(dst[:n]) != "a;bb" {
		t.Errorf("got %q", dst[:n])
	}
	if got := wholeWords([]byte("app\x00--password=h"), 16); string(got) != "app\x00" {
		t.Errorf("got %q", got)
	}
}
