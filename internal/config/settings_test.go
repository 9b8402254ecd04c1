package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryKeyIsDescribed(t *testing.T) {
	for _, s := range Settings() {
		if s.About == "" {
			t.Errorf("key %q: about does not say what it does", s.Name)
		}
		if s.Wants == "" {
			t.Errorf("key %q: a value of no type at all is not refused by want", s.Name)
		}
	}
	known := Keys()
	for name := range about {
		if !strings.Contains(" "+strings.Join(known, " ")+" ", " "+name+" ") {
			t.Errorf("about describes %q, which is no key", name)
		}
	}
}

// The sample shows the defaults: whoever takes every comment away has changed
// nothing.
func TestSampleHoldsTheDefaults(t *testing.T) {
	sample := Sample()
	want, err := Load(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(Sources{File: write(t, "as-installed.yaml", sample)})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("as it is installed: %v\n%s", err, diff)
	}
	var bare strings.Builder
	for line := range strings.Lines(sample) {
		if !strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "#  ") {
			line = strings.TrimPrefix(line, "#")
		}
		bare.WriteString(line)
	}
	path := write(t, "bare.yaml", bare.String())
	// An empty list of the file is not the absent one of the default.
	got, err = Load(Sources{File: path})
	if diff := cmp.Diff(want, got, cmp.FilterValues(func(a, b []string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())); err != nil || diff != "" {
		t.Errorf("without the comments: %v\n%s\n%s", err, diff, bare.String())
	}
	for _, k := range Keys() {
		parts := strings.Split(k, ".")
		if !strings.Contains(bare.String(), "\n"+strings.Repeat("  ", len(parts)-1)+parts[len(parts)-1]+": ") {
			t.Errorf("key %q is not in %s", k, filepath.Base(path))
		}
	}
}
