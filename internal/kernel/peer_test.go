package kernel

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"freezeframe/internal/stranger"
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

// connectedAs returns what PeerOf says of this test when cmd runs it.
func connectedAs(t *testing.T, dir string, cmd *exec.Cmd) Peer {
	t.Helper()
	path := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), peerHelper+"="+path)
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
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := connectedAs(t, t.TempDir(), exec.Command(exe))
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
	c := stranger.Copy(t, "helper", 0o755)
	for _, n := range []int{0, 1, 32, 33, 500} {
		groups := make([]uint32, n)
		for i := range groups {
			groups[i] = uint32(70000 + i)
		}
		cmd := c.Command(groups)
		cmd.SysProcAttr.Credential.Gid = 65533
		p := connectedAs(t, c.Dir, cmd)
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
