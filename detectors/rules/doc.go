package rules

import (
	"bytes"
	"fmt"
)

// Doc returns the page that tells of every cause: what explain prints of one.
func Doc() []byte {
	var b bytes.Buffer
	b.WriteString("# What freezeframe can name\n\nGenerated from the rules by `go test ./detectors/rules -run TestCausesDoc -update`; do not edit.\n" +
		"`freezeframe explain ID` prints the same.\n")
	for _, r := range All() {
		fmt.Fprintf(&b, "\n## %s: %s\n\n%s\n\n**Proof.** %s\n\n**What to do.**\n\n", r.Cause, r.Title, r.Means, r.Proof)
		for _, step := range r.Remedy {
			fmt.Fprintf(&b, "- %s\n", step)
		}
	}
	return b.Bytes()
}
