package daemon

import (
	"bytes"
	"cmp"
	"compress/flate"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// pstoreDirs are where the kernel's last words are found after a crash: its own
// filesystem (Documentation/ABI/testing/pstore), and where systemd-pstore moves
// them at the next boot.
var pstoreDirs = [...]string{"/sys/fs/pstore", "/var/lib/systemd/pstore"}

// Bounds of what is read of them.
const (
	maxPstoreFiles = 64
	maxPstoreBytes = 1 << 20 // of a record, unpacked too
	maxPstoreDepth = 3
)

// lastWords is what the kernel left of one crash: the end of its log.
type lastWords struct {
	reason string // as the record's head says it: "Panic#1", "Oops#2"
	files  []string
	at     time.Time // of the newest record
	lines  []logLine
}

// logLine is one line of the kernel's log.
type logLine struct {
	at   freezeframe.Instant // since boot by the log's own clock; 0: not known
	text string
}

// record is one file of pstore.
type record struct {
	path, reason string
	part         int
	at           time.Time
	body         string
}

// readPstore reads the crashes that were recorded since a moment, the newest
// first. What could not be read is said by the needs.
func readPstore(dirs []string, since time.Time) ([]lastWords, []freezeframe.Need) {
	var records []record
	var needs []freezeframe.Need
	files := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil && path == dir && errors.Is(err, fs.ErrNotExist):
				return fs.SkipAll
			case err != nil:
				needs = append(needs, pstoreNeed(path, err))
				return nil
			case e.IsDir() && strings.Count(strings.TrimPrefix(path, dir), "/") >= maxPstoreDepth:
				return fs.SkipDir
			case e.IsDir() || !strings.HasPrefix(e.Name(), "dmesg"):
				return nil
			}
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || info.ModTime().Before(since) {
				return nil // gone meanwhile, or of another crash
			}
			if files++; files > maxPstoreFiles {
				needs = append(needs, pstoreNeed(dir, fmt.Errorf("more than %d records", maxPstoreFiles)))
				return fs.SkipAll
			}
			r, err := readRecord(path)
			if err != nil {
				needs = append(needs, pstoreNeed(path, err))
				return nil
			}
			r.at = info.ModTime()
			records = append(records, r)
			return nil
		})
		if err != nil {
			needs = append(needs, pstoreNeed(dir, err))
		}
	}
	return assemble(records), needs
}

func pstoreNeed(path string, err error) freezeframe.Need {
	return freezeframe.Need{What: "read the kernel's last words in " + path, Lost: "why the machine stopped, where the kernel knew", Err: err.Error()}
}

func readRecord(path string) (record, error) {
	f, err := kernel.OpenRegular(path)
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPstoreBytes))
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(b, strings.HasSuffix(path, ".enc.z"))
	r.path = path
	return r, err
}

// parseRecord reads one record: a head such as "Panic#1 Part2", and that part
// of the log, the newest part being the first. The kernel unpacks what it had
// packed; where it could not, the file's name ends in .enc.z.
func parseRecord(b []byte, packed bool) (record, error) {
	if packed {
		var err error
		if b, err = unpack(b); err != nil {
			return record{}, err
		}
	}
	text := strings.ToValidUTF8(string(b), "?")
	// ramoops writes "====1700000000.123456-D" before each record.
	if strings.HasPrefix(text, "====") {
		_, text, _ = strings.Cut(text, "\n")
	}
	head, body, found := strings.Cut(text, "\n")
	var r record
	reason, part, ok := strings.Cut(head, " Part")
	if n, err := strconv.Atoi(strings.TrimSpace(part)); found && ok && err == nil && n >= 0 && strings.Contains(reason, "#") {
		r.reason, r.part, r.body = reason, n, body
		return r, nil
	}
	// dmesg.txt of systemd-pstore has no head of its own.
	r.body = text
	if strings.TrimSpace(text) == "" {
		return r, errors.New("it is empty")
	}
	return r, nil
}

// unpack undoes what CONFIG_PSTORE_COMPRESS did: zlib's deflate without a head
// in newer kernels, what was configured in older ones.
func unpack(b []byte) ([]byte, error) {
	var in io.ReadCloser
	switch {
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8*maxPstoreBytes))
		if err != nil {
			return nil, fmt.Errorf("unpack zstd: %w", err)
		}
		in = d.IOReadCloser()
	case len(b) > 1 && b[0]&0x0f == 8 && (int(b[0])<<8|int(b[1]))%31 == 0:
		d, err := zlib.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("unpack zlib: %w", err)
		}
		in = d
	default:
		in = flate.NewReader(bytes.NewReader(b))
	}
	defer in.Close()
	out, err := io.ReadAll(io.LimitReader(in, maxPstoreBytes))
	// A record that the kernel cut off ends in the middle: what is there counts.
	if err != nil && !(errors.Is(err, io.ErrUnexpectedEOF) && len(out) > 0) {
		return nil, fmt.Errorf("unpack: %w (neither deflate nor zstd)", err)
	}
	return out, nil
}

// assemble puts the parts of each crash together.
func assemble(records []record) []lastWords {
	type crash struct{ dir, reason string }
	byCrash := map[crash][]record{}
	whole := map[string]bool{} // directories whose records have heads
	for _, r := range records {
		if r.reason != "" {
			whole[filepath.Dir(r.path)] = true
		}
	}
	for _, r := range records {
		dir := filepath.Dir(r.path)
		if r.reason == "" && (whole[dir] || slices.ContainsFunc(records, func(o record) bool { return o.reason != "" && strings.HasPrefix(o.path, dir+"/") })) {
			continue // the same again, put together
		}
		c := crash{dir, r.reason}
		if r.reason == "" {
			c.reason = r.path
		}
		byCrash[c] = append(byCrash[c], r)
	}
	var out []lastWords
	for _, parts := range byCrash {
		slices.SortStableFunc(parts, func(a, b record) int {
			return cmp.Or(cmp.Compare(b.part, a.part), cmp.Compare(a.path, b.path))
		})
		w := lastWords{reason: parts[0].reason}
		for _, p := range parts {
			w.files = append(w.files, p.path)
			if p.at.After(w.at) {
				w.at = p.at
			}
			for line := range strings.Lines(p.body) {
				if l := parseLogLine(line); l.text != "" {
					w.lines = append(w.lines, l)
				}
			}
		}
		out = append(out, w)
	}
	slices.SortStableFunc(out, func(a, b lastWords) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(rankOf(b.reason), rankOf(a.reason)), cmp.Compare(a.files[0], b.files[0]))
	})
	return out
}

// rankOf says how final a reason is: a panic may follow an oops in the same second.
func rankOf(reason string) int {
	switch {
	case strings.HasPrefix(reason, "Panic"):
		return 2
	case strings.HasPrefix(reason, "Oops"), strings.HasPrefix(reason, "Emergency"):
		return 1
	}
	return 0
}

// parseLogLine reads "<4>[  123.456789] text", both of which may be missing;
// with CONFIG_PRINTK_CALLER "[ T12]" or "[ C0]" follows.
func parseLogLine(line string) logLine {
	line = strings.TrimRight(line, "\r\n")
	if rest, ok := strings.CutPrefix(line, "<"); ok {
		if level, after, ok := strings.Cut(rest, ">"); ok && len(level) <= 4 && strings.Trim(level, "0123456789c") == "" {
			line = after
		}
	}
	l := logLine{text: line}
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if stamp, after, ok := strings.Cut(rest, "]"); ok {
			if s, err := strconv.ParseFloat(strings.TrimSpace(stamp), 64); err == nil && s >= 0 && s < 1e9 {
				l.at, l.text = freezeframe.Instant(s*1e9), after
			}
		}
	}
	if rest, ok := strings.CutPrefix(strings.TrimSpace(l.text), "["); ok {
		caller, after, ok := strings.Cut(rest, "]")
		caller = strings.TrimSpace(caller)
		if ok && len(caller) > 1 && (caller[0] == 'T' || caller[0] == 'C') && strings.Trim(caller[1:], "0123456789") == "" {
			l.text = after
		}
	}
	l.text = strings.TrimSpace(l.text)
	return l
}

// deaths tells what the kernel's last words prove, the more telling first: a
// panic's own line says less than what led to it.
var deaths = [...]struct {
	cause freezeframe.Cause
	marks []string
}{
	{"hw.machine_check", []string{"Fatal machine check", "Machine check: Processor context corrupt", "Fatal hardware error", "[Hardware Error]: Machine check"}},
	{"mem.oom_kill", []string{"panic_on_oom is enabled", "System is deadlocked on memory"}},
	{"kernel.hung_task", []string{"not syncing: hung_task"}},
	{"kernel.hard_lockup", []string{"Watchdog detected hard LOCKUP", "not syncing: Hard LOCKUP"}},
	{"kernel.soft_lockup", []string{"not syncing: softlockup"}},
	{"kernel.rcu_stall", []string{"not syncing: RCU Stall"}},
	{"kernel.oops", []string{
		"BUG: unable to handle", "BUG: kernel NULL pointer", "kernel BUG at", "Oops: ", "Oops[", "general protection fault",
		"Internal error: ", "Unable to handle kernel", "double fault: ", "stack-protector: Kernel stack is corrupted",
	}},
	// A panic without one of those is a decision of the kernel's to stop.
	{"kernel.oops", []string{"Kernel panic - not syncing"}},
}

// death returns the cause that last words prove with the line that proves it;
// "" when they prove none: an oops is survived, so only a panic says that the
// machine stopped there.
func (w *lastWords) death() (cause freezeframe.Cause, line string) {
	panicked := strings.HasPrefix(w.reason, "Panic") || w.find("Kernel panic - not syncing") >= 0
	if !panicked {
		return "", ""
	}
	for _, d := range deaths {
		if i := w.find(d.marks...); i >= 0 {
			return d.cause, w.lines[i].text
		}
	}
	return "kernel.oops", w.reason
}

// find returns the first line that has one of the marks, or -1.
func (w *lastWords) find(marks ...string) int {
	return slices.IndexFunc(w.lines, func(l logLine) bool {
		return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(l.text, m) })
	})
}

// culprit names the process in whose context the kernel gave up:
// "CPU: 1 PID: 812 Comm: mount Not tainted …" (dump_stack_print_info).
func (w *lastWords) culprit() freezeframe.Culprit {
	for _, l := range w.lines {
		_, rest, ok := strings.Cut(l.text, " PID: ")
		_, comm, ok2 := strings.Cut(rest, " Comm: ")
		if !ok || !ok2 {
			continue
		}
		number, _, _ := strings.Cut(rest, " ")
		// A name may have spaces; what follows it is one of these.
		for _, end := range []string{" Not tainted", " Tainted:", " Kdump:"} {
			if name, _, ok := strings.Cut(comm, end); ok {
				comm = name
			}
		}
		if pid, err := strconv.Atoi(number); err == nil && pid > 0 {
			return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: pid, Comm: comm}
		}
	}
	return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
}

// told are the lines that show where it happened, for the evidence: not all of
// the log, which is in the timeline.
func (w *lastWords) told() []string {
	const most = 8
	var out []string
	for _, l := range w.lines {
		for _, mark := range []string{"BUG: ", "kernel BUG at", "Kernel panic", "Oops: ", "LOCKUP", "lockup", " Comm: ", "RIP: 0010:", "pc : ", "Hardware name:"} {
			if strings.Contains(l.text, mark) && !slices.Contains(out, l.text) && len(out) < most {
				out = append(out, l.text)
				break
			}
		}
	}
	return out
}

// pstoreBackend is the file that names where the kernel keeps its last words:
// "(null)" or missing means nowhere.
const pstoreBackend = "/sys/module/pstore/parameters/backend"

// noPstore says that the kernel has no place for its last words; nil: it has.
func noPstore(backend string) *freezeframe.Need {
	b, err := os.ReadFile(backend)
	if name := strings.TrimSpace(string(b)); err == nil && name != "" && name != "(null)" {
		return nil
	}
	n := freezeframe.Need{
		What: "the kernel's last words (pstore)", Lost: "why the machine stopped, where the kernel knew",
		Fix: "a pstore backend: efi_pstore, ERST, or ramoops with memory set aside for it",
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.Err = err.Error()
	}
	return &n
}
