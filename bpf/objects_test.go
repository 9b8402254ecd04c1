package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestObjectsMatchTheirSources compiles every program again and compares.
func TestObjectsMatchTheirSources(t *testing.T) {
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: the committed objects are not held against their sources", err)
		}
	}
	version, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`clang version 14\.`).Match(version) {
		t.Skipf("the objects were made by clang 14, this is %s", bytes.SplitN(version, []byte("\n"), 2)[0])
	}
	directives := regexp.MustCompile(`(?m)^//go:generate (go tool .*)$`)
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	made := 0
	for _, m := range directives.FindAllSubmatch(text, -1) {
		made++
		// The directive as it stands, but into another folder.
		line := bytes.Replace(m[1], []byte(" bpf2go "), []byte(" bpf2go -go-package bpf -output-dir "+dir+" "), 1)
		if out, err := exec.Command("sh", "-c", string(line)).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	sources, err := filepath.Glob("*.bpf.c")
	if err != nil || len(sources) == 0 || made != len(sources) {
		t.Fatalf("%d directives make objects of %d sources (%v)", made, len(sources), err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 2*len(sources) {
		t.Fatalf("made %d files of %d sources (%v)", len(files), len(sources), err)
	}
	for _, f := range files {
		want, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is not what its source gives: run go generate ./bpf and commit it", filepath.Base(f))
		}
	}
}
