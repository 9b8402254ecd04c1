package reports

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"freezeframe"
)

// The JSON Schemas (2020-12) of the two documents. They allow fields they do
// not know, because fields are added.
var (
	//go:embed report.schema.json
	reportSchema []byte
	//go:embed diagnosis.schema.json
	diagnosisSchema []byte
)

// Schemas returns the JSON Schemas of a report and of a diagnosis; the second
// refers to the first as report.schema.json.
func Schemas() (report, diagnosis []byte) {
	return bytes.Clone(reportSchema), bytes.Clone(diagnosisSchema)
}

// JSON writes a document (a Report or a Diagnosis) indented, with a newline at
// its end. The same document gives the same bytes.
func JSON(w io.Writer, document any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(document); err != nil {
		return fmt.Errorf("encode the document: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Diagnosis makes the document of one watch out of its parts, all strings
// clean and no list null.
func Diagnosis(observed freezeframe.Observed, coverage freezeframe.Coverage, reports []freezeframe.Report) freezeframe.Diagnosis {
	var once []freezeframe.NotSeen
	for _, n := range coverage.NotSeen {
		if !slices.Contains(once, n) { // several sources can need the same
			once = append(once, n)
		}
	}
	coverage.NotSeen = once
	coverage.Recorder = rounded(coverage.Recorder)
	d := freezeframe.Diagnosis{Schema: freezeframe.DiagnosisSchema, Observed: observed, Coverage: coverage, Reports: reports}
	cleanAll(&d)
	return d
}

// maxDocument is the size up to which Read takes a document: a report is some
// 100 KB, so that more is not one.
const maxDocument = 64 << 20

// Read reads a report or a diagnosis, which may come from anywhere: exactly
// one of the two is returned, all strings clean. A single report is also
// returned by itself, never as a diagnosis.
func Read(r io.Reader) (*freezeframe.Report, *freezeframe.Diagnosis, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read the document: %w", err)
	}
	if len(b) > maxDocument {
		return nil, nil, fmt.Errorf("the document is larger than %d MB: it is no report", maxDocument>>20)
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // some editors begin a file so
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, nil, fmt.Errorf("it is not a JSON document: %w", where(err, b))
	}
	switch head.Schema {
	case freezeframe.ReportSchema:
		var doc freezeframe.Report
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, nil, fmt.Errorf("it is not a report: %w", where(err, b))
		}
		if err := whole(&doc); err != nil {
			return nil, nil, fmt.Errorf("it is not a whole report: %w", err)
		}
		cleanAll(&doc)
		return &doc, nil, nil
	case freezeframe.DiagnosisSchema:
		var doc freezeframe.Diagnosis
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, nil, fmt.Errorf("it is not a diagnosis: %w", where(err, b))
		}
		if doc.Observed.Start.IsZero() || doc.Observed.End.Before(doc.Observed.Start) {
			return nil, nil, errors.New("it is not a whole diagnosis: it does not say when was watched (\"observed\")")
		}
		for i := range doc.Reports {
			if err := whole(&doc.Reports[i]); err != nil {
				return nil, nil, fmt.Errorf("it is not a whole diagnosis: in report %d of %d: %w", i+1, len(doc.Reports), err)
			}
		}
		cleanAll(&doc)
		return nil, &doc, nil
	case "":
		return nil, nil, fmt.Errorf("it has no \"schema\": neither %s nor %s", freezeframe.ReportSchema, freezeframe.DiagnosisSchema)
	}
	return nil, nil, fmt.Errorf("its schema is %q; this freezeframe reads %s and %s", Clean(head.Schema), freezeframe.ReportSchema, freezeframe.DiagnosisSchema)
}

// whole says what is missing without which a report would tell nothing.
func whole(r *freezeframe.Report) error {
	switch {
	case len(r.Causes) == 0:
		return errors.New("it has no cause")
	case slices.ContainsFunc(r.Causes, func(c freezeframe.CauseReport) bool { return c.ID == "" }):
		return errors.New("a cause has no name")
	case r.Stall.Start.IsZero():
		return errors.New("it does not say when the stall began")
	}
	return nil
}

// where says an error of encoding/json in plain words, with its line where it
// knows its place.
func where(err error, b []byte) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Offset <= int64(len(b)) {
		return fmt.Errorf("line %d: %q cannot be a %s", 1+bytes.Count(b[:wrong.Offset], []byte("\n")), wrong.Field, wrong.Value)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset <= int64(len(b)) {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(b[:syntax.Offset], []byte("\n")), err)
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("%w (and it is not UTF-8)", err)
	}
	return err
}
