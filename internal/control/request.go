package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/reports"
)

// The verbs of the protocol.
const (
	verbStatus   = "status"
	verbList     = "list"
	verbShow     = "show"
	verbDiagnose = "diagnose"
	verbCapture  = "capture"
	verbReload   = "reload"
)

// request is the payload of a request frame.
type request struct {
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args,omitempty"` // the verb's own request
}

// What a verb needs decides how many may run at once.
const (
	quick   = iota // memory only: answered whatever hangs
	reading        // reads files
	heavy          // reads and judges, or copies, a recording
	kinds
)

// call is a request that makes sense: who may make it, what it takes, and how
// it is answered.
type call struct {
	verb     string
	kind     int
	rootOnly bool
	answer   func(ctx context.Context, h Handler, w io.Writer) (notes []string, err error)
}

// parseRequest reads a request. It is strict: what an older daemon does not
// know must not be left out of the answer in silence.
func parseRequest(payload []byte) (call, error) {
	var r request
	if err := strictly(payload, &r); err != nil {
		return call{}, err
	}
	args := r.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	c := call{verb: r.Verb}
	switch r.Verb {
	case verbStatus:
		c.kind, c.answer = quick, answerStatus
		return c, strictly(args, &struct{}{})
	case verbReload:
		c.kind, c.rootOnly, c.answer = reading, true, func(ctx context.Context, h Handler, _ io.Writer) ([]string, error) { return nil, h.Reload(ctx) }
		return c, strictly(args, &struct{}{})
	case verbList:
		var q ListRequest
		if err := strictly(args, &q); err != nil {
			return c, err
		}
		if err := q.check(); err != nil {
			return c, err
		}
		c.kind, c.answer = reading, func(ctx context.Context, h Handler, w io.Writer) ([]string, error) {
			l, err := h.List(ctx, q)
			if err != nil {
				return nil, err
			}
			l.Normalize()
			return nil, json.NewEncoder(w).Encode(l)
		}
		return c, nil
	case verbShow:
		var q ShowRequest
		if err := strictly(args, &q); err != nil {
			return c, err
		}
		c.kind, c.answer = reading, func(ctx context.Context, h Handler, w io.Writer) ([]string, error) {
			d, err := h.Show(ctx, q)
			return copyDocument(w, d, err)
		}
		return c, q.check()
	case verbDiagnose:
		var q DiagnoseRequest
		if err := strictly(args, &q); err != nil {
			return c, err
		}
		c.kind, c.answer = heavy, func(ctx context.Context, h Handler, w io.Writer) ([]string, error) {
			d, err := h.Diagnose(ctx, q)
			if err != nil {
				return nil, err
			}
			return nil, writeDiagnosis(w, d)
		}
		return c, q.check()
	case verbCapture:
		var q CaptureRequest
		if err := strictly(args, &q); err != nil {
			return c, err
		}
		c.kind, c.answer = heavy, func(ctx context.Context, h Handler, w io.Writer) ([]string, error) {
			d, err := h.Capture(ctx, q)
			return copyDocument(w, d, err)
		}
		return c, q.check()
	}
	return c, Errorf(CodeUnknown, "the daemon does not know the verb %q: it is of another version than this freezeframe; restart it so that it is the installed one: systemctl restart freezeframe", shortened(r.Verb))
}

// strictly decodes exactly one JSON object that has only fields of v.
func strictly(b []byte, v any) error {
	if text := bytes.TrimLeft(b, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return Errorf(CodeMalformed, "a request that is no JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return Errorf(CodeUnknown, "the daemon does not know %s of the request: it is of another version than this freezeframe; restart it so that it is the installed one: systemctl restart freezeframe", shortened(field))
		}
		return Errorf(CodeMalformed, "a request that cannot be read: %s", shortened(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeMalformed, "a request with something after its end")
	}
	return nil
}

func (q *ListRequest) check() error {
	if q.Limit < 0 || q.Limit > MaxList {
		return Errorf(CodeBadRequest, "a list of %d incidents: at most %d can be asked for", q.Limit, MaxList)
	}
	if q.Limit == 0 {
		q.Limit = MaxList
	}
	if len(q.Cause) > MaxID || len(q.Fingerprint) > MaxID {
		return Errorf(CodeBadRequest, "a cause or fingerprint of more than %d bytes", MaxID)
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return spanError(q.Since, q.Until)
	}
	return nil
}

func (q *ShowRequest) check() error {
	ok := q.ID != "" && len(q.ID) <= MaxID && q.ID[0] != '.'
	for i := range len(q.ID) {
		b := q.ID[i]
		ok = ok && (b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '-' || b == '_' || b == '.')
	}
	if !ok {
		return Errorf(CodeBadRequest, "%q is no id of an incident: freezeframe list shows them", shortened(q.ID))
	}
	switch q.Form {
	case FormJSON, FormHTML, FormFRZ:
		return nil
	}
	return Errorf(CodeUnknown, "the daemon does not know the form %q of a report", shortened(q.Form))
}

func (q *DiagnoseRequest) check() error {
	if q.Last == !q.Since.IsZero() || q.Last && !q.Until.IsZero() {
		return Errorf(CodeBadRequest, "a diagnosis of neither the last incident nor a span of time, or of both")
	}
	if q.Last && q.Rejudge {
		return Errorf(CodeBadRequest, "the last incident judged again: that is for a span of time")
	}
	if !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return spanError(q.Since, q.Until)
	}
	return nil
}

// maxLast is far above what any black box keeps.
const maxLast = 10 * 365 * 24 * time.Hour

func (q *CaptureRequest) check() error {
	switch {
	case q.Last < 0 || q.Last > maxLast:
		return Errorf(CodeBadRequest, "a recording of the last %s", q.Last)
	case (q.Last > 0) == !q.Since.IsZero() || q.Last > 0 && !q.Until.IsZero():
		return Errorf(CodeBadRequest, "a recording of neither the last minutes nor a span of time, or of both")
	case !q.Until.IsZero() && !q.Since.Before(q.Until):
		return spanError(q.Since, q.Until)
	}
	return nil
}

func spanError(since, until time.Time) error {
	return Errorf(CodeBadRequest, "the time from %s to %s ends before it begins", since.Format(time.RFC3339), until.Format(time.RFC3339))
}

func answerStatus(ctx context.Context, h Handler, w io.Writer) ([]string, error) {
	s, err := h.Status(ctx)
	if err != nil {
		return nil, err
	}
	s.Running = true
	s.Normalize()
	return nil, json.NewEncoder(w).Encode(s)
}

func copyDocument(w io.Writer, d Document, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(w, d.Body)
	return d.Notes, errors.Join(err, d.Body.Close())
}

// writeDiagnosis encodes one report at a time: a diagnosis of many must not be
// in memory twice.
func writeDiagnosis(w io.Writer, d freezeframe.Diagnosis) error {
	list := d.Reports
	d = reports.Diagnosis(d.Observed, d.Coverage, nil)
	head, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode the diagnosis: %w", err)
	}
	// "reports" is the last field of the document, and empty here.
	head, ok := bytes.CutSuffix(head, []byte("]}"))
	if !ok {
		return errors.New("encode the diagnosis: its reports are not at its end")
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for i := range list {
		b, err := json.Marshal(&list[i])
		if err != nil {
			return fmt.Errorf("encode report %s: %w", list[i].ID, err)
		}
		if i > 0 {
			b = append([]byte(","), b...)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, "]}\n")
	return err
}
