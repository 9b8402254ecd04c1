package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/internal/config"
	"freezeframe/internal/manual"
)

// manual is for whoever packages freezeframe: what is installed beside the
// binary, as this very binary has it.
func (a *app) manual() *cobra.Command {
	return &cobra.Command{
		Use:   "manual DIR",
		Short: "Write the manual pages, the shell completion and the sample configuration",
		Long: `Write what a package installs beside the binary: DIR/man1, DIR/man5,
DIR/completion and DIR/config.yaml. The date of the pages is that of the
variable SOURCE_DATE_EPOCH; without it they have none.`,
		Hidden: true,
		Args:   exactly(1, "one directory"),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := installed(c.Root())
			if err != nil {
				return err
			}
			for name, text := range files {
				path := filepath.Join(args[0], name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return fmt.Errorf("manual: %w", err)
				}
				if err := os.WriteFile(path, text, 0o644); err != nil {
					return fmt.Errorf("manual: %w", err)
				}
			}
			return nil
		},
	}
}

// installed is every file with its name below the directory.
func installed(root *cobra.Command) (map[string][]byte, error) {
	about := manual.About{Version: version, SeeAlso: []string{"freezeframe.yaml(5)"}}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, usageError{fmt.Errorf("variable SOURCE_DATE_EPOCH: want seconds since 1970, got %q", epoch)}
		}
		about.Date = time.Unix(seconds, 0)
	}
	pages := manual.Commands(root, about)
	about.SeeAlso = []string{"freezeframe(1)"}
	pages = append(pages, manual.File(configPage(), about))
	files := map[string][]byte{"config.yaml": []byte(config.Sample())}
	for _, p := range pages {
		files[fmt.Sprintf("man%d/%s", p.Section, p.File())] = []byte(p.Text)
	}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"freezeframe.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"_freezeframe":     func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"freezeframe.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return nil, fmt.Errorf("write the completion %s: %w", name, err)
		}
		files["completion/"+name] = b.Bytes()
	}
	return files, nil
}

func configPage() manual.Config {
	c := manual.Config{
		Name:  "freezeframe.yaml",
		Short: "configuration of freezeframe",
		Path:  config.DefaultFile,
		Long: `The file is YAML, or TOML when its name ends with .toml; --config names another
than the one above. Where there is none, every key has its default. A key that
nobody reads, or a value of the wrong kind, is an error that names the key and
what was wanted.

Flags win over variables, variables over the file, the file over the defaults.
In a variable a list is separated by commas.`,
		Example: "probes:\n  fsync:\n    skip: [/mnt/tape]\nbpf:\n  budget_pct: 1\nlog:\n  level: info\n",
	}
	for _, s := range config.Settings() {
		c.Keys = append(c.Keys, manual.Key(s))
	}
	return c
}
