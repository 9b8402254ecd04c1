// Package page is the offline report page, as `make page` built it.
package page

import "embed"

// Plain `go build` must work before the page is built: then dist holds only
// its .gitkeep.
//
//go:embed all:dist
var dist embed.FS

// Index returns the page, one file with its script and style in it; nil when
// it was not built.
func Index() []byte {
	b, err := dist.ReadFile("dist/index.html")
	if err != nil {
		return nil
	}
	return b
}
