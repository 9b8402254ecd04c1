package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"freezeframe/recorder"
	"freezeframe/reports"
)

func newSum() hash.Hash32 { return crc32.New(castagnoli) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// parseRecord reads a line of the index.
func parseRecord(text []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	if !validID.MatchString(r.ID) || !validFingerprint.MatchString(r.Fingerprint) || len(r.Files) == 0 || r.Size < 0 || r.Bytes < r.Size {
		return nil, errors.New("it is no entry of the index")
	}
	for _, ext := range r.Files {
		if !validExtension.MatchString(ext) {
			return nil, errors.New("it names a file that is none")
		}
	}
	r.clean()
	return &r, nil
}

// clean makes what is shown of a record fit for a terminal.
func (r *record) clean() {
	for _, s := range []*string{&r.Headline, &r.Title, &r.Who, &r.Unit, (*string)(&r.Cause)} {
		*s = reports.Clean(*s)
	}
	for i := range r.Ran {
		r.Ran[i] = reports.Clean(r.Ran[i])
	}
}

// appendIndex adds a line to the index. The index says nothing that the files
// do not, so it need not be durable.
func (a *Archive) appendIndex(e *record) (err error) {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(a.dir, indexFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	var b []byte
	if a.torn {
		b = append(b, '\n')
	}
	_, err = f.Write(appendLine(b, text))
	a.torn = err != nil
	return err
}

// writeIndex writes the index anew.
func (a *Archive) writeIndex() error {
	var b []byte
	for _, id := range a.ids {
		text, err := json.Marshal(a.records[id])
		if err != nil {
			return err
		}
		b = appendLine(b, text)
	}
	err := recorder.SaveFile(filepath.Join(a.dir, indexFile), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	})
	if err == nil {
		a.dead, a.torn = 0, false
	}
	return err
}
