package archive

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
)

// The index and the memory of series are files of lines, each a checksum, a
// blank and a JSON object: what a crash cut off, or the disk spoiled, costs the
// line it is in.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxLines bounds what is read of a file that may be anything.
const maxLines = 256 << 20

func appendLine(b, text []byte) []byte {
	b = fmt.Appendf(b, "%08x ", crc32.Checksum(text, castagnoli))
	b = append(b, text...)
	return append(b, '\n')
}

// readLines calls each for every whole line of a file, and returns how many
// were not whole. A file that is not there has none.
func readLines(path string, each func(text []byte) error) (broken int, err error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLines))
	if err != nil {
		return 0, err
	}
	return parseLines(b, each), nil
}

func parseLines(b []byte, each func(text []byte) error) (broken int) {
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		if len(line) == 0 {
			continue
		}
		if !whole || len(line) < 10 || line[8] != ' ' {
			broken++
			continue
		}
		sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
		if err != nil || uint32(sum) != crc32.Checksum(line[9:], castagnoli) || each(line[9:]) != nil {
			broken++
		}
	}
	return broken
}
