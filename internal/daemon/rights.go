package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// oomScore leaves the recorder among the last that are killed for memory,
	// though not beyond reach: it must not be what keeps a machine from recovering.
	oomScore = -900
	// manyFiles is how many descriptors the sources take on a machine with a few
	// thousand processes; with fewer, files are opened again and again.
	manyFiles = 8192
)

// takeRights asks for what keeps the process going where others do not, beside
// what the watch asks for itself, and returns what it did not get.
func takeRights() []freezeframe.Need {
	var out []freezeframe.Need
	if err := setOOMScore("/proc/self/oom_score_adj", oomScore); err != nil {
		out = append(out, freezeframe.Need{
			What: "be among the last that are killed for memory", Lost: "the recording of what happens when memory is exhausted",
			Fix: "OOMScoreAdjust=-900 in the unit, or CAP_SYS_RESOURCE", Err: err.Error(),
		})
	}
	if err := kernel.NoHugePages(); err != nil {
		out = append(out, freezeframe.Need{
			What: "go without transparent huge pages", Lost: "memory: it may take more than it says in its documentation",
			Fix: "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`", Err: err.Error(),
		})
	}
	// The Go runtime has raised the soft limit to the hard one.
	if n := kernel.OpenFilesLimit(); n < manyFiles {
		out = append(out, freezeframe.Need{
			What: fmt.Sprintf("open %d files", manyFiles), Lost: "some sources cost more, or are read less often",
			Fix: "LimitNOFILE=65536 in the unit (ulimit -n)", Err: fmt.Sprintf("the limit is %d", n),
		})
	}
	return out
}

// setOOMScore lowers the score that the file holds; one that is lower already
// was set by whoever started us.
func setOOMScore(path string, score int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the OOM score: %w", err)
	}
	if have, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && have <= score {
		return nil
	}
	if err := os.WriteFile(path, strconv.AppendInt(nil, int64(score), 10), 0); err != nil {
		return fmt.Errorf("set the OOM score to %d: %w", score, err)
	}
	return nil
}

// denied is what we asked for so as to be on time and did not get.
func (d *daemon) denied() []freezeframe.Need {
	out := append([]freezeframe.Need{}, d.rights...)
	if w := d.watch.Load(); w != nil {
		out = append(out, w.Without()...)
	}
	return out
}
