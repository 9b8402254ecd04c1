package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"freezeframe"
	"freezeframe/internal/stacks"
	"freezeframe/reports/page"
)

// ErrNoPage says that the binary was built without the page, by plain
// `go build`.
var ErrNoPage = errors.New("this binary was built without the HTML page; run `make page` and build it again")

// placeholder is what the built page has in place of its data.
const placeholder = `{"freezeframe":"data"}`

// pageData is what the page is given.
type pageData struct {
	Headline  string             `json:"headline"`         // what people felt, as the text says it
	Recurs    string             `json:"recurs,omitempty"` // how often it came, and when, as the text says it
	Report    freezeframe.Report `json:"report"`
	Charts    []chartSource      `json:"charts"`
	Processes []processRow       `json:"processes"`
	Stacks    *stacks.Flames     `json:"stacks,omitempty"`
}

// HTML writes a report as one file that needs no network. win gives the charts
// and the process table; nil, where only the report is left, leaves them out.
// sampled gives the flame graphs, of at most stacks.MaxFlameBytes; without any
// there are none.
func HTML(w io.Writer, r freezeframe.Report, win freezeframe.Window, sampled []stacks.Stack) error {
	return writeHTML(w, page.Index(), r, win, sampled)
}

func writeHTML(w io.Writer, index []byte, r freezeframe.Report, win freezeframe.Window, sampled []stacks.Stack) error {
	if index == nil {
		return ErrNoPage
	}
	before, after, ok := bytes.Cut(index, []byte(placeholder))
	if !ok {
		return fmt.Errorf("the built page has no place for its data: %w", ErrNoPage)
	}
	data := pageData{Headline: Headline(&r), Report: r, Charts: []chartSource{}, Processes: []processRow{}, Stacks: stacks.NewFlames(sampled, stacks.MaxFlameBytes)}
	if r.Recurrence != nil {
		data.Recurs = newPrinter(TextOptions{}).recurs(r.Recurrence)
	}
	if win != nil {
		data.Charts = chartSources(win)
		data.Processes = processTable(win)
	}
	cleanAll(&data)
	// Marshal escapes <, >, &, U+2028 and U+2029, so that nothing in the data
	// can end the script block that it stands in.
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode the page's data: %w", err)
	}
	for _, part := range [][]byte{before, b, after} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}
