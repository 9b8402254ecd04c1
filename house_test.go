package freezeframe_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// doors says which packages may import what: everything else goes through
// them. A prefix ends with "/".
var doors = map[string]struct {
	allowed []string
	why     string
}{
	"golang.org/x/sys/unix":                 {[]string{"internal/kernel", "bpf", "probes", "lab/", "cmd/freezeframe"}, "internal/kernel is the door to the kernel; probes do their work by system calls of their own"},
	"github.com/cilium/ebpf":                {[]string{"bpf", "lab/"}, "bpf is the door to programs in the kernel"},
	"github.com/spf13/viper":                {[]string{"internal/config"}, "internal/config is the door to the configuration"},
	"github.com/hanwen/go-fuse":             {[]string{"lab/"}, "only the lab serves filesystems"},
	"github.com/santhosh-tekuri/jsonschema": {nil, "schemas are checked in tests only: compiling them takes memory the daemon should not spend"},
	"github.com/shirou/gopsutil/v3":         {[]string{"reports", "probes", "lab/"}, "off the sampling path only: host facts at report time, and what a slow request's thread reads from"},
	"github.com/ianlancetaylor/demangle":    {[]string{"internal/symbols"}, "names are made readable in one place"},
	"github.com/google/pprof":               {[]string{"internal/stacks"}, "stacks are written in one place"},
	"unsafe":                                {[]string{"internal/kernel", "bpf", "probes", "lab/"}, "raw system calls only"},
}

func sources(t *testing.T, visit func(dir, path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == "tools" || path != "." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			visit(filepath.ToSlash(filepath.Dir(path)), path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsGoThroughTheirDoors(t *testing.T) {
	sources(t, func(dir, path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			name := strings.Trim(imp.Path.Value, `"`)
			if dir == "." && strings.Contains(name, ".") {
				t.Errorf("%s imports %s: the root package uses the standard library only", path, name)
			}
			for door, rule := range doors {
				if name != door && !strings.HasPrefix(name, door+"/") {
					continue
				}
				ok := false
				for _, a := range rule.allowed {
					ok = ok || dir == a || strings.HasSuffix(a, "/") && strings.HasPrefix(dir+"/", a)
				}
				if !ok {
					t.Errorf("%s imports %s: %s", path, name, rule.why)
				}
			}
		}
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]bool{}
	sources(t, func(dir, path string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, "_test.go") {
			documented[dir] = documented[dir] || f.Doc != nil
		}
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
}

// Lists are explicit: what a binary holds can be read in one place.
func TestNoInitFunctions(t *testing.T) {
	sources(t, func(dir, path string) {
		if strings.HasSuffix(path, "_test.go") {
			return // a test binary that runs itself again as a helper needs one
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: put it in an explicit list", path)
			}
		}
	})
}
