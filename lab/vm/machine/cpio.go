package machine

import (
	"fmt"
	"io"
	"strings"
)

// cpioFile is an entry of an initial RAM disk.
type cpioFile struct {
	name string // without a leading /
	mode uint32 // with its type
	data []byte
}

// writeCpio writes the archive that a kernel unpacks into its first root
// filesystem: the "newc" form (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
func writeCpio(w io.Writer, files []cpioFile) error {
	for i, f := range append(files, cpioFile{name: "TRAILER!!!"}) {
		var b strings.Builder
		b.WriteString("070701")
		for _, field := range []int{i + 1, int(f.mode), 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(f.name) + 1, 0} {
			fmt.Fprintf(&b, "%08x", field)
		}
		b.WriteString(f.name)
		b.WriteByte(0)
		b.WriteString(strings.Repeat("\x00", -b.Len()&3))
		b.Write(f.data)
		b.WriteString(strings.Repeat("\x00", -len(f.data)&3))
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}
