package recorder

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"freezeframe"

	"github.com/klauspost/compress/zstd"
)

// Format is the version of the file format that Write writes and the newest
// that Read reads.
const Format = 1

// ErrNotARecording says that a file is something else than a recording.
var ErrNotARecording = errors.New("not a freezeframe recording (.frz)")

// The layout of a file; FORMAT.md describes it byte by byte.
const (
	fileMagic   = "\x89FRZ\r\n\x1a\n"
	fileHeader  = 16
	startSize   = 64 // bytes that tell a recording from anything else
	sectionSync = "\xf5\x9cfz"
	sectionSize = 28 // of a section's own header
	chunkPrefix = 32 // of what stands before a chunk's packed bytes

	tagHead   = "HEAD"
	tagChunk  = "CHNK"
	tagEvents = "EVNT"
	tagTail   = "TAIL"
	tagPart   = "PART" // of a chunk, in a segment of the black box
	tagStall  = "STAL" // what was open when a segment was last written to

	maxChunk       = 4 << 20 // plain bytes of a chunk
	maxSection     = 8 << 20 // plain bytes of any other section
	maxFile        = 512 << 20
	eventsASection = 256
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head is the JSON in a HEAD section.
type head struct {
	Span    freezeframe.Span
	Clock   freezeframe.Clock
	Host    freezeframe.HostReport
	Tool    string
	Sources []freezeframe.Source
	Needs   []freezeframe.Need
	Stalls  []freezeframe.Stall
	Segment *segmentHead `json:",omitempty"`
}

// segmentHead says which part of which run a segment of the black box is.
type segmentHead struct {
	Run     uint64 // when it began, ms since 1970 by the wall clock
	Boot    string // /proc/sys/kernel/random/boot_id
	Thinned bool
}

// tail is the JSON in the TAIL section: what the whole file holds.
type tail struct {
	Chunks []tailChunk
	Events int
}

type tailChunk struct {
	Lane        freezeframe.Lane
	Number      uint64
	First, Last freezeframe.Instant
	Offset      int64 // of its section in the file; of its first part
	Bytes       int   `json:",omitempty"` // of a chunk in parts: how much of it there is
}

// packer holds the compressor's state, which is too large to make for each
// chunk.
type packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder

	tight bool // for what is kept for long: smaller, and slower to make
}

func (p *packer) deflate(plain []byte) ([]byte, error) {
	if p.enc == nil {
		level, window := zstd.SpeedFastest, 256<<10
		if p.tight {
			level, window = zstd.SpeedDefault, thinChunk
		}
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("start the compressor: %w", err)
		}
		p.enc = enc
	}
	return slices.Clip(p.enc.EncodeAll(plain, make([]byte, 0, len(plain)/2))), nil
}

// inflate unpacks what was size bytes long, and never more.
func (p *packer) inflate(packed []byte, size int) ([]byte, error) {
	if p.dec == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxSection), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, fmt.Errorf("start the decompressor: %w", err)
		}
		p.dec = dec
	}
	plain, err := p.dec.DecodeAll(packed, make([]byte, 0, size))
	if err != nil {
		return nil, damaged("unpack %d bytes: %v", len(packed), err)
	}
	if len(plain) != size {
		return nil, damaged("unpacked %d bytes instead of %d", len(plain), size)
	}
	return plain, nil
}

// close gives the memory back.
func (p *packer) close() {
	if p.enc != nil {
		p.enc.Close()
	}
	if p.dec != nil {
		p.dec.Close()
	}
	p.enc, p.dec = nil, nil
}

// Write writes a recording as a .frz file.
func Write(w io.Writer, rec *Recording) error {
	var p packer
	defer p.close()
	out := &sections{w: w, p: &p}
	out.begin()
	h := head{rec.Span, rec.Clock, rec.Host, rec.Tool, rec.Sources, rec.Needs, rec.Stalls, nil}
	out.json(tagHead, &h)
	var end tail
	for i := range rec.blocks {
		b := &rec.blocks[i]
		packed := b.packed
		if packed == nil {
			var err error
			packed, err = p.deflate(b.plain)
			out.fail(err)
		}
		end.Chunks = append(end.Chunks, tailChunk{Lane: b.lane, Number: b.number, First: b.first, Last: b.last, Offset: out.n})
		out.chunk(tagChunk, b, 0, packed)
	}
	end.Events = out.events(rec.Events)
	// Once more: without the sources no chunk can be read.
	out.json(tagHead, &h)
	out.json(tagTail, &end)
	if out.err != nil {
		return fmt.Errorf("write the recording: %w", out.err)
	}
	return nil
}

// sections writes sections and keeps the first error.
type sections struct {
	w   io.Writer
	p   *packer
	n   int64
	err error
}

// begin writes what stands before the first section.
func (s *sections) begin() {
	start := append([]byte(fileMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(start[8:], Format)
	s.write(binary.LittleEndian.AppendUint32(start, crc32.Checksum(start, castagnoli)))
}

func (s *sections) json(tag string, v any) {
	plain, err := json.Marshal(v)
	if err != nil {
		s.fail(fmt.Errorf("encode the %s section: %w", tag, err))
		return
	}
	packed, err := s.p.deflate(plain)
	s.fail(err)
	s.section(tag, len(plain), packed)
}

// events writes events and returns how many.
func (s *sections) events(all []freezeframe.Event) int {
	for events := range slices.Chunk(all, eventsASection) {
		s.json(tagEvents, events)
	}
	return len(all)
}

// chunk writes a chunk, or the part of it that begins at offset.
func (s *sections) chunk(tag string, b *block, offset int, packed []byte) {
	payload := make([]byte, chunkPrefix, chunkPrefix+len(packed))
	payload[0] = byte(b.lane)
	binary.LittleEndian.PutUint32(payload[4:], uint32(offset))
	binary.LittleEndian.PutUint64(payload[8:], b.number)
	binary.LittleEndian.PutUint64(payload[16:], uint64(b.first))
	binary.LittleEndian.PutUint64(payload[24:], uint64(b.last))
	s.section(tag, b.size, append(payload, packed...))
}

func (s *sections) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *sections) write(b []byte) {
	if s.err == nil {
		n, err := s.w.Write(b)
		s.n += int64(n)
		s.err = err
	}
}

func (s *sections) section(tag string, plain int, payload []byte) {
	b := make([]byte, 0, sectionSize)
	b = append(b, sectionSync...)
	b = append(b, tag...)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, uint32(plain))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	s.write(b)
	s.write(payload)
}

// Read reads a .frz file. When a part of it is missing or damaged, it returns
// what is intact and an error that wraps ErrDamaged and says what is lost.
func Read(r io.Reader) (*Recording, error) {
	// What is something else is not read to its end: it may have none.
	start := bufio.NewReader(r)
	if head, _ := start.Peek(startSize); len(head) == startSize {
		if _, err := checkStart(head); errors.Is(err, ErrNotARecording) {
			return nil, fmt.Errorf("read the recording: %w", err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(start, maxFile+1))
	if err != nil && len(data) == 0 {
		return nil, fmt.Errorf("read the recording: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read the recording: it is larger than %d MiB", maxFile>>20)
	}
	rec, decodeErr := decodeFile(data)
	if err != nil { // a bad block of the disk: keep what came before
		decodeErr = errors.Join(fmt.Errorf("%w: %v", ErrDamaged, err), decodeErr)
	}
	if decodeErr != nil {
		return rec, fmt.Errorf("read the recording: %w", decodeErr)
	}
	return rec, nil
}

// ReadFile reads the .frz file at path, as Read does.
func ReadFile(path string) (*Recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rec, err := Read(f)
	if err != nil {
		return rec, fmt.Errorf("%s: %w", path, err)
	}
	return rec, nil
}

func decodeFile(data []byte) (*Recording, error) { return decode(data, true) }

// decode reads a file; unpack says whether readings that do not take much
// memory are unpacked.
func decode(data []byte, unpack bool) (*Recording, error) {
	var lost []string
	if version, err := checkStart(data); err != nil {
		if errors.Is(err, ErrNotARecording) {
			return nil, err
		}
		lost = append(lost, err.Error())
	} else if version > Format {
		return nil, fmt.Errorf("written by a newer freezeframe (format %d); this one reads %d: update it", version, Format)
	} else if version < 1 {
		return nil, fmt.Errorf("format %d was never written; this freezeframe reads %d", version, Format)
	}

	rec := &Recording{}
	var p packer
	defer p.close()
	var end *tail
	heads, events, size := 0, 0, 0
	skipped := 0 // bytes that belong to no intact section
	torn := 0    // of them, those behind the last one
	var parts []part
	at := min(fileHeader, len(data))
	// Scanning for the next section after damage hashes what a header claims:
	// many headers that lie could make that quadratic.
	work := 4*len(data) + 1<<20
	for at < len(data) && work > 0 {
		tag, plain, payload, ok := section(data[at:], &work)
		if !ok {
			next := bytes.Index(data[at+1:], []byte(sectionSync))
			if next < 0 {
				next = len(data) - at - 1
			}
			skipped += next + 1
			torn += next + 1
			at += next + 1
			continue
		}
		torn = 0
		from := at
		at += sectionSize + len(payload)
		var err error
		switch tag {
		case tagHead:
			// Of a segment the last one says the most.
			if err = rec.decodeHead(&p, payload, plain); err == nil {
				heads++
			}
		case tagChunk:
			var b block
			if b, err = decodeChunkSection(payload, plain); err == nil {
				rec.blocks = append(rec.blocks, b)
				size += b.size
			}
		case tagPart:
			var part part
			if part.block, err = decodeChunkSection(payload, plain); err == nil {
				part.offset = int(binary.LittleEndian.Uint32(payload[4:]))
				parts = append(parts, part)
			}
		case tagStall:
			var open *freezeframe.Stall
			if err = p.decodeJSON(payload, plain, &open); err == nil {
				rec.open = open
			}
		case tagEvents:
			var more []freezeframe.Event
			if err = p.decodeJSON(payload, plain, &more); err == nil {
				rec.Events = append(rec.Events, more...)
				events += len(more)
			}
		case tagTail:
			var t tail
			if err = p.decodeJSON(payload, plain, &t); err == nil {
				end = &t
			}
		}
		if err != nil {
			lost = append(lost, fmt.Sprintf("the section %s at byte %d cannot be used: %v", tag, from, err))
		}
	}
	if work <= 0 {
		lost = append(lost, fmt.Sprintf("nothing behind byte %d was looked at", at))
	}
	if rec.segment != nil && end == nil {
		skipped -= torn // the power went while it was being written: as expected
	}
	if skipped > 0 {
		lost = append(lost, fmt.Sprintf("%d of %d bytes belong to no intact section", skipped, len(data)))
	}
	for _, b := range join(parts) {
		rec.blocks = append(rec.blocks, b)
		size += b.size
	}
	slices.SortStableFunc(rec.blocks, func(a, b block) int {
		if a.lane != b.lane {
			return int(a.lane) - int(b.lane)
		}
		switch {
		case a.number < b.number:
			return -1
		case a.number > b.number:
			return 1
		}
		return 0
	})
	rec.blocks = slices.CompactFunc(rec.blocks, func(a, b block) bool { return a.lane == b.lane && a.number == b.number })
	if heads == 0 {
		lost = append(lost, "the description of the sources is lost, so no reading can be decoded")
		rec.blocks = nil
	}
	lost = append(lost, rec.missingFrom(end, events)...)
	if rec.open != nil {
		rec.Stalls = append(rec.Stalls, *rec.open)
	}
	if rec.segment != nil && rec.Span.Length() == 0 {
		rec.Span = rec.readings()
	}
	if unpack && size <= keepPlain {
		for i := range rec.blocks {
			b := &rec.blocks[i]
			plain, err := p.inflate(b.packed, b.size)
			if err != nil {
				lost = append(lost, fmt.Sprintf("readings of lane %s are lost: %v", b.lane, err))
				continue
			}
			b.plain, b.packed = plain, nil
		}
		rec.blocks = slices.DeleteFunc(rec.blocks, func(b block) bool { return b.plain == nil })
	}
	if len(lost) == 0 {
		return rec, nil
	}
	if len(lost) > 8 {
		lost = append(lost[:8], fmt.Sprintf("and %d more", len(lost)-8))
	}
	err := fmt.Errorf("%w: %s", ErrDamaged, strings.Join(lost, "; "))
	rec.notes = append(rec.notes, freezeframe.Need{What: "read the whole recording", Lost: strings.Join(lost, "; "), Err: ErrDamaged.Error()})
	return rec, err
}

// missingFrom says which chunks and events the tail names and the file lacks.
func (rec *Recording) missingFrom(end *tail, events int) []string {
	if end == nil && rec.segment != nil {
		return nil // still being written, or its machine went off
	}
	if end == nil {
		return []string{"its end is missing: it was cut off, or never finished"}
	}
	var lost []string
	for _, c := range end.Chunks {
		// Of a chunk in parts some may be there.
		if !slices.ContainsFunc(rec.blocks, func(b block) bool { return b.lane == c.Lane && b.number == c.Number && b.size >= c.Bytes }) {
			lost = append(lost, fmt.Sprintf("readings of lane %s from %s to %s are lost", c.Lane,
				rec.Clock.Wall(c.First).Format("15:04:05.000"), rec.Clock.Wall(c.Last).Format("15:04:05.000")))
		}
	}
	if events < end.Events {
		lost = append(lost, fmt.Sprintf("%d of %d events are lost", end.Events-events, end.Events))
	}
	return lost
}

// checkStart returns the version that a file says it has.
func checkStart(data []byte) (version uint32, err error) {
	magic := len(data) >= len(fileMagic) && string(data[:len(fileMagic)]) == fileMagic
	if len(data) < fileHeader {
		if magic {
			return 0, errors.New("it ends within its first bytes")
		}
		return 0, ErrNotARecording
	}
	sum := crc32.Checksum(data[:12], castagnoli) == binary.LittleEndian.Uint32(data[12:])
	switch {
	case magic && sum:
		return binary.LittleEndian.Uint32(data[8:]), nil
	case magic || bytes.Contains(data[:min(len(data), startSize)], []byte(sectionSync+tagHead)):
		return 0, errors.New("its first bytes are damaged")
	}
	return 0, ErrNotARecording
}

// section returns the section that data begins with, if it is intact.
func section(data []byte, work *int) (tag string, plain int, payload []byte, ok bool) {
	if len(data) < sectionSize || string(data[:4]) != sectionSync {
		return "", 0, nil, false
	}
	*work -= sectionSize
	if crc32.Checksum(data[:24], castagnoli) != binary.LittleEndian.Uint32(data[24:]) {
		return "", 0, nil, false
	}
	n := binary.LittleEndian.Uint32(data[12:])
	size := binary.LittleEndian.Uint32(data[16:])
	if uint64(n) > uint64(len(data)-sectionSize) || size > maxSection {
		return "", 0, nil, false
	}
	payload = data[sectionSize : sectionSize+int(n)]
	*work -= len(payload)
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[20:]) {
		return "", 0, nil, false
	}
	return string(data[4:8]), int(size), payload, true
}

func (p *packer) decodeJSON(payload []byte, size int, into any) error {
	plain, err := p.inflate(payload, size)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(plain, into); err != nil {
		return damaged("%v", err)
	}
	return nil
}

func (rec *Recording) decodeHead(p *packer, payload []byte, size int) error {
	var h head
	if err := p.decodeJSON(payload, size, &h); err != nil {
		return err
	}
	if len(h.Sources) > maxSources {
		return damaged("it names %d sources", len(h.Sources))
	}
	for _, src := range h.Sources {
		if len(src.Columns) > maxColumns || src.Lane >= freezeframe.Lanes {
			return damaged("the source %q has %d columns and lane %d", src.Name, len(src.Columns), src.Lane)
		}
	}
	rec.Span, rec.Clock, rec.Host, rec.Tool = h.Span, h.Clock, h.Host, h.Tool
	rec.Sources, rec.Needs, rec.Stalls, rec.segment = h.Sources, h.Needs, h.Stalls, h.Segment
	return nil
}

func decodeChunkSection(payload []byte, size int) (block, error) {
	if len(payload) < chunkPrefix || size > maxChunk {
		return block{}, damaged("a chunk of %d bytes that unpacks to %d", len(payload), size)
	}
	b := block{
		lane:   freezeframe.Lane(payload[0]),
		number: binary.LittleEndian.Uint64(payload[8:]),
		first:  freezeframe.Instant(binary.LittleEndian.Uint64(payload[16:])),
		last:   freezeframe.Instant(binary.LittleEndian.Uint64(payload[24:])),
		size:   size,
		packed: payload[chunkPrefix:],
	}
	if b.lane >= freezeframe.Lanes {
		return block{}, damaged("a chunk of lane %d", payload[0])
	}
	return b, nil
}

// part is a piece of a chunk, packed by itself.
type part struct {
	block
	offset int
}

// join puts the parts of each chunk together, as far as they follow each
// other. What is behind a hole differs from what was in it, and cannot be
// read.
func join(parts []part) []block {
	slices.SortStableFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.lane, b.lane), cmp.Compare(a.number, b.number), cmp.Compare(a.offset, b.offset))
	})
	var out []block
	own := false // the newest block's bytes are not the file's
	for i := range parts {
		p := &parts[i]
		if n := len(out) - 1; n >= 0 && out[n].lane == p.lane && out[n].number == p.number {
			if b := &out[n]; p.offset == b.size && b.size+p.size <= maxChunk && p.first == b.first {
				if !own {
					b.packed, own = slices.Clip(b.packed), true
				}
				b.packed = append(b.packed, p.packed...)
				b.size += p.size
				b.last = max(b.last, p.last)
			}
		} else if p.offset == 0 {
			out, own = append(out, p.block), false
		}
	}
	return out
}

// WriteFile writes a recording to path, as SaveFile does.
func WriteFile(path string, rec *Recording) error {
	return SaveFile(path, func(w io.Writer) error { return Write(w, rec) })
}

// SaveFile writes a file with mode 0640: to a temporary file beside it that is
// renamed when it is complete and on the disk. On failure nothing is left
// behind, and a file that was there before is still whole. What is no regular
// file, such as a device, is never replaced.
func SaveFile(path string, write func(io.Writer) error) (err error) {
	target, err := saveTarget(path)
	if err != nil {
		return explain(path, err)
	}
	dir := filepath.Dir(target)
	f, err := createBeside(target)
	if err != nil {
		return explain(path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = explain(path, err)
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	if err = write(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Chmod(0o640); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), target); err != nil {
		return err
	}
	// The name itself must survive a power cut too.
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // some filesystems cannot; the file is there all the same
		d.Close()
	}
	return nil
}

// CanSave says why SaveFile could not even begin, for whoever wants to know
// before there is anything to save.
func CanSave(path string) error {
	target, err := saveTarget(path)
	if err != nil {
		return explain(path, err)
	}
	f, err := createBeside(target)
	if err != nil {
		return explain(path, err)
	}
	f.Close()
	os.Remove(f.Name())
	return nil
}

// saveTarget follows a symbolic link, which is to stay one, and refuses what
// a rename would destroy.
func saveTarget(path string) (string, error) {
	if path == "" {
		return "", errors.New("the name of the file is empty")
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return "", errors.New("it is a directory: name a file in it")
	case !info.Mode().IsRegular():
		return "", errors.New("it is a device or a pipe: name a file")
	}
	return path, nil
}

func createBeside(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
}

// explain says what to do about the usual failures.
func explain(path string, err error) error {
	// The name of the temporary file helps nobody.
	var p *fs.PathError
	var l *os.LinkError
	if errors.As(err, &p) {
		err = p.Err
	} else if errors.As(err, &l) {
		err = l.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("save %s: there is no such directory: make it or name another: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("save %s: this user may not write there: name another directory, or run as root: %w", path, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("save %s: the disk is full: free some space there or save to another filesystem: %w", path, err)
	case errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("save %s: the disk quota is used up: free some space there or save to another filesystem: %w", path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("save %s: the filesystem is read-only: save to another one: %w", path, err)
	}
	return fmt.Errorf("save %s: %w", path, err)
}
