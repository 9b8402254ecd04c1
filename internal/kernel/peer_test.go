package kernel

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// peerHelper makes the test binary connect to a socket and wait to be let go.
const peerHelper = "FREEZEFRAME_TEST_CONNECT"

func init() {
	path := os.Getenv(peerHelper)
	if path == "" {
		return
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		panic(err)
	}
	_, _ = c.Read(make([]byte, 1))
	os.Exit(0)
}

// connectedAs returns what PeerOf says of this test run as another user.
func connectedAs(t *testing.T, cred *syscall.Credential) Peer {
	t.Helper()
	dir, err := os.MkdirTemp("", "freezeframe-peer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if cred != nil {
		// Another user must be able to reach both.
		b, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		exe = filepath.Join(dir, "helper")
		for _, err := range []error{os.Chmod(dir, 0o755), os.Chmod(path, 0o666), os.WriteFile(exe, b, 0o755)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.Command(exe)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), peerHelper+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Close()
		_ = cmd.Wait() // it has no more to say
	}()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var p Peer
	var perr error
	if err := raw.Control(func(fd uintptr) { p, perr = PeerOf(int(fd)) }); err != nil || perr != nil {
		t.Fatal(err, perr)
	}
	if p.PID != cmd.Process.Pid {
		t.Errorf("pid %d, want %d", p.PID, cmd.Process.Pid)
	}
	return p
}

func TestPeerOfThisUser(t *testing.T) {
	p := connectedAs(t, nil)
	groups, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if p.UID != uint32(os.Getuid()) || p.GID != uint32(os.Getgid()) || len(p.Groups) != len(groups) {
		t.Errorf("got %+v", p)
	}
}

// More groups than the first buffer takes, and none.
func TestPeerOfAnotherUsersGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root; the other test already runs without it")
	}
	for _, n := range []int{0, 1, 32, 33, 500} {
		groups := make([]uint32, n)
		for i := range groups {
			groups[i] = uint32(70000 + i)
		}
		p := connectedAs(t, &syscall.Credential{Uid: 65534, Gid: 65533, Groups: groups})
		slices.Sort(p.Groups)
		if p.UID != 65534 || p.GID != 65533 || !slices.Equal(p.Groups, groups) {
			t.Errorf("%d groups: got %+v", n, p)
		}
		if !p.In(65533) || p.In(65534) || n > 0 && !p.In(uint32(70000+n-1)) {
			t.Errorf("%d groups: member of the wrong ones", n)
		}
	}
}

func TestPeerOfWhatIsNoSocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := PeerOf(int(f.Fd())); err == nil {
		t.Error("no error")
	}
}
