package probes

import (
	"bytes"
	"slices"
	"strings"

	"freezeframe/internal/kernel"
)

// mount is a line of /proc/self/mountinfo.
type mount struct {
	id       uint64
	dev      uint64 // major<<20 | minor
	root     string // what of the filesystem is mounted
	point    string
	fstype   string
	source   string
	readonly bool // the mount or the whole filesystem
	told     bool // the mount: somebody wants it so; an error makes only the filesystem read-only
}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)). Lines it does not
// understand are left out.
func parseMounts(b []byte) []mount {
	var out []mount
	s := kernel.Scan(b)
	for s.More() {
		if m, ok := parseMount(s.Line()); ok {
			out = append(out, m)
		}
	}
	return out
}

func parseMount(line []byte) (m mount, ok bool) {
	s := kernel.Scan(line)
	if m.id, ok = s.Uint(); !ok {
		return m, false
	}
	s.Skip(1) // the parent
	major, ok1 := s.Uint()
	colon := s.Byte(':')
	minor, ok2 := s.Uint()
	if !ok1 || !ok2 || !colon {
		return m, false
	}
	m.dev = major<<20 | minor&0xfffff
	m.root = unescape(s.Word())
	m.point = unescape(s.Word())
	options := s.Word()
	for {
		word := s.Word()
		if len(word) == 0 {
			return m, false
		}
		if string(word) == "-" {
			break
		}
	}
	m.fstype = unescape(s.Word())
	m.source = unescape(s.Word())
	m.told = hasOption(options, "ro")
	m.readonly = m.told || hasOption(s.Word(), "ro")
	return m, m.point != "" && m.fstype != ""
}

func hasOption(options []byte, want string) bool {
	for o := range bytes.SplitSeq(options, []byte(",")) {
		if string(o) == want {
			return true
		}
	}
	return false
}

// unescape undoes the kernel's \040 for a blank, \011, \012 and \134.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && octal(b[i+1]) && octal(b[i+2]) && octal(b[i+3]) {
			out.WriteByte((b[i+1]-'0')<<6 | (b[i+2]-'0')<<3 | (b[i+3] - '0'))
			i += 3
			continue
		}
		out.WriteByte(b[i])
	}
	return out.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// localFilesystems keep their data on a block device of this host.
var localFilesystems = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "exfat", "ntfs3", "jfs", "reiserfs", "nilfs2", "bcachefs", "zfs", "udf", "hfsplus"}

// networkFilesystems hang with a server, or with a daemon.
var networkFilesystems = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "gfs2", "ocfs2", "glusterfs", "lustre", "virtiofs", "fuse", "fuseblk"}

// fsyncMounts picks the mounts that the fsync probe writes to: one for each
// filesystem, writable, not opted out. Where a filesystem is mounted more than
// once, the mount of its root with the shortest path stands for all, unless
// one of them is opted out: then nothing is written to that filesystem.
func fsyncMounts(all []mount, skip []string, network bool) []mount {
	best := make(map[uint64]mount)
	var order []uint64
	skipped := make(map[uint64]bool)
	for _, m := range all {
		fuse := strings.HasPrefix(m.fstype, "fuse.")
		if !slices.Contains(localFilesystems, m.fstype) && !(network && (fuse || slices.Contains(networkFilesystems, m.fstype))) {
			continue
		}
		if slices.Contains(skip, m.point) {
			skipped[m.dev] = true
		}
		if m.readonly || hidden(all, m) {
			continue
		}
		have, seen := best[m.dev]
		if !seen {
			order = append(order, m.dev)
		}
		if !seen || better(m, have) {
			best[m.dev] = m
		}
	}
	var out []mount
	for _, dev := range order {
		if !skipped[dev] {
			out = append(out, best[dev])
		}
	}
	return out
}

func better(a, b mount) bool {
	if (a.root == "/") != (b.root == "/") {
		return a.root == "/"
	}
	return len(a.point) < len(b.point)
}

// hidden tells whether a later mount lies over m, so that its path leads to
// another filesystem.
func hidden(all []mount, m mount) bool {
	after := false
	for _, o := range all {
		if o.id == m.id {
			after = true
			continue
		}
		if after && (o.point == m.point || strings.HasPrefix(m.point, strings.TrimSuffix(o.point, "/")+"/")) && o.dev != m.dev {
			return true
		}
	}
	return false
}
