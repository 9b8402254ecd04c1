package manual

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "Do things", Long: "It does things.\n\nIn order:\n\n  tool x   does x\n.begins with a dot\n'and with a quote", RunE: func(*cobra.Command, []string) error { return nil }}
	sub := &cobra.Command{Use: "look FILE", Short: "Look at a file", Example: "  tool look a\\b --for 1s", Run: func(*cobra.Command, []string) {}}
	sub.Flags().Duration("for", 20*time.Second, "how long to look")
	sub.Flags().BoolP("quiet", "q", false, "say nothing")
	sub.Flags().String("secret", "", "not for you")
	_ = sub.Flags().MarkHidden("secret")
	root.AddCommand(sub, &cobra.Command{Use: "inner", Short: "Not shown", Hidden: true, Run: func(*cobra.Command, []string) {}})
	return root
}

func pages() []Page {
	a := About{Version: "1.2", Date: time.Unix(1700000000, 0), SeeAlso: []string{"tool.yaml(5)"}}
	return append(Commands(tree(), a), File(Config{
		Name: "tool.yaml", Short: "configuration of tool", Path: "/etc/tool.yaml", Long: "Strict.", Example: "a:\n  b: 1\n",
		Keys: []Key{{Name: "a.b", About: "The b of a.", Wants: "a number", Default: "1", Variable: "TOOL_A_B"}},
	}, a))
}

func TestPagesSayWhatTheTreeSays(t *testing.T) {
	all := pages()
	var names []string
	text := map[string]string{}
	for _, p := range all {
		names = append(names, p.File())
		text[p.File()] = p.Text
	}
	if got := strings.Join(names, " "); got != "tool.1 tool-look.1 tool.yaml.5" {
		t.Fatalf("pages: %s", got)
	}
	for page, wants := range map[string][]string{
		"tool.1":      {`.TH "TOOL" 1 "2023\-11\-14" "freezeframe 1.2"`, `tool \- Do things`, ".nf\ntool x   does x\n", "\n\\&.begins with a dot\n", "\n\\(aqand with", ".TP\n\\fBlook\\fR\nLook at a file.", `\fBtool\-look\fR(1),`, `\fBtool.yaml\fR(5)`},
		"tool-look.1": {`\fBtool look\fR FILE [flags]`, "\\fB\\-\\-for\\fR \\fIduration\\fR\nHow long to look (default 20s).", `\fB\-q\fR, \fB\-\-quiet\fR`, `tool look a\eb \-\-for 1s`},
		"tool.yaml.5": {".TP\n\\fBa.b\\fR\nThe b of a.", "Wants a number.", "Default: \\fB1\\fR.", `TOOL_A_B`, "a:\n  b: 1"},
	} {
		for _, want := range wants {
			if !strings.Contains(text[page], want) {
				t.Errorf("%s does not say %q:\n%s", page, want, text[page])
			}
		}
	}
	for page, secret := range map[string]string{"tool.1": "inner", "tool-look.1": "secret"} {
		if strings.Contains(text[page], secret) {
			t.Errorf("%s shows %q, which is hidden", page, secret)
		}
	}
}

// The formatter has the last word.
func TestPagesHaveNoWarnings(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is missing (apt-get install groff-base)")
	}
	for _, p := range pages() {
		cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
		cmd.Stdin = strings.NewReader(p.Text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s\n%s", p.File(), err, out, p.Text)
		}
	}
}
