// Package manual writes manual pages: of a command line as cobra holds it, and
// of a configuration file. What a page says is what --help and the checks of
// the configuration say, so neither can go stale.
package manual

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Page is one manual page in the man macros (man(7)).
type Page struct {
	Name    string // freezeframe-diagnose
	Section int
	Text    string
}

// File is what the page's file is called.
func (p Page) File() string { return fmt.Sprintf("%s.%d", p.Name, p.Section) }

// About is what stands in the header and the footer of every page, and who
// else there is.
type About struct {
	Version string
	Date    time.Time // zero: none is shown
	SeeAlso []string  // pages of other sections, "freezeframe.yaml(5)"
}

// Commands returns a page for the command and for each below it that is not
// hidden, the root first.
func Commands(root *cobra.Command, a About) []Page {
	pages := []Page{command(root, a)}
	for _, c := range visible(root) {
		pages = append(pages, Commands(c, a)...)
	}
	return pages
}

func visible(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(c *cobra.Command) bool {
		return c.Hidden || c.Deprecated != "" || c.Name() == "help" || c.IsAdditionalHelpTopicCommand()
	})
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func command(c *cobra.Command, a About) Page {
	p := Page{Name: pageName(c), Section: 1}
	r := begin(p, a, c.Short)
	below := visible(c)
	r.section("SYNOPSIS")
	if c.Runnable() {
		r.synopsis(c.CommandPath(), strings.TrimSpace(strings.TrimPrefix(c.UseLine(), c.CommandPath())))
	}
	if len(below) > 0 {
		r.synopsis(c.CommandPath(), "COMMAND [flags]")
	}
	r.section("DESCRIPTION")
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	r.prose(long)
	if len(below) > 0 {
		r.section("COMMANDS")
		for _, b := range below {
			r.tagged(bold(b.Name()), b.Short+".")
		}
	}
	c.InitDefaultHelpFlag()
	if c.HasAvailableFlags() {
		r.section("OPTIONS")
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Deprecated == "" {
				r.flag(f)
			}
		})
	}
	if c.Example != "" {
		r.section("EXAMPLES")
		r.literal(strings.Split(c.Example, "\n"))
	}
	var see []string
	if c.HasParent() {
		see = append(see, pageName(c.Parent())+"(1)")
	}
	for _, b := range below {
		see = append(see, pageName(b)+"(1)")
	}
	r.seeAlso(append(see, a.SeeAlso...))
	p.Text = r.String()
	return p
}

// Key is a setting of a configuration file.
type Key struct{ Name, About, Wants, Default, Variable string }

// Config is what there is to say of a configuration file beside its keys.
type Config struct {
	Name    string // of the page: freezeframe.yaml
	Short   string
	Path    string // of the file
	Long    string // paragraphs, with a blank line between them
	Example string
	Keys    []Key
}

// File returns the page of a configuration file.
func File(c Config, a About) Page {
	p := Page{Name: c.Name, Section: 5}
	r := begin(p, a, c.Short)
	r.section("SYNOPSIS")
	r.line(escape(c.Path))
	r.section("DESCRIPTION")
	r.prose(c.Long)
	r.section("KEYS")
	for _, k := range c.Keys {
		r.tagged(bold(k.Name), k.About)
		r.line(".br")
		r.line("Wants " + escape(k.Wants) + ".")
		r.line("Default: " + bold(k.Default) + ".")
		r.line("Variable: " + bold(k.Variable) + ".")
	}
	if c.Example != "" {
		r.section("EXAMPLE")
		r.literal(strings.Split(strings.TrimRight(c.Example, "\n"), "\n"))
	}
	r.seeAlso(a.SeeAlso)
	p.Text = r.String()
	return p
}

// roff is a page that is being written.
type roff struct{ strings.Builder }

func begin(p Page, a About, short string) *roff {
	r := &roff{}
	date := ""
	if !a.Date.IsZero() {
		date = a.Date.UTC().Format(time.DateOnly)
	}
	r.line(fmt.Sprintf(".TH %s %d %s %s", quote(strings.ToUpper(p.Name)), p.Section, quote(date), quote("freezeframe "+a.Version)))
	r.line(".nh") // nothing that is typed may be broken by a hyphen
	r.line(".ad l")
	r.section("NAME")
	r.line(escape(p.Name) + ` \- ` + escape(short))
	return r
}

func (r *roff) line(s string)       { r.WriteString(s + "\n") }
func (r *roff) section(name string) { r.line(".SH " + quote(name)) }

func (r *roff) synopsis(name, rest string) {
	r.line(".PP")
	r.line(strings.TrimSpace(bold(name) + " " + escape(rest)))
}

// tagged is a term with what it means below it.
func (r *roff) tagged(term, text string) {
	r.line(".TP")
	r.line(term)
	for _, line := range strings.Split(text, "\n") {
		r.line(escape(line))
	}
}

func (r *roff) flag(f *pflag.Flag) {
	value, usage := pflag.UnquoteUsage(f)
	term := bold("--" + f.Name)
	if f.Shorthand != "" {
		term = bold("-"+f.Shorthand) + ", " + term
	}
	if value != "" {
		term += " " + italic(value)
	}
	if standard := f.DefValue; standard != "" && standard != "false" && standard != "[]" && f.Name != "help" && !strings.Contains(usage, "default") {
		usage += " (default " + standard + ")"
	}
	r.tagged(term, strings.ToUpper(usage[:1])+usage[1:]+".")
}

// prose is paragraphs between blank lines; lines that begin with two spaces
// stay as they are.
func (r *roff) prose(text string) {
	var plain, fixed []string
	flush := func() {
		if len(plain) > 0 {
			r.line(".PP")
			for _, line := range plain {
				r.line(escape(line))
			}
		}
		r.literal(fixed)
		plain, fixed = nil, nil
	}
	for _, line := range strings.Split(text, "\n") {
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "  "):
			fixed = append(fixed, line)
		default:
			if len(fixed) > 0 {
				flush()
			}
			plain = append(plain, line)
		}
	}
	flush()
}

// literal is lines that stay as they are, without what all are indented by.
func (r *roff) literal(lines []string) {
	if len(lines) == 0 {
		return
	}
	indent := len(lines[0])
	for _, line := range lines {
		if strings.TrimSpace(line) != "" {
			indent = min(indent, len(line)-len(strings.TrimLeft(line, " ")))
		}
	}
	r.line(".PP\n.RS 4\n.nf")
	for _, line := range lines {
		r.line(escape(line[min(indent, len(line)):]))
	}
	r.line(".fi\n.RE")
}

func (r *roff) seeAlso(pages []string) {
	if len(pages) == 0 {
		return
	}
	r.section("SEE ALSO")
	for i, p := range pages {
		name, section, _ := strings.Cut(p, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		r.line(bold(name) + "(" + section + comma)
	}
}

// special is what a formatter does not take as it is: groff_char(7).
var special = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// escape is a text as a line of a page shows it.
func escape(s string) string {
	s = special.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func bold(s string) string   { return `\fB` + escape(s) + `\fR` }
func italic(s string) string { return `\fI` + escape(s) + `\fR` }

// quote is an argument of a macro.
func quote(s string) string { return `"` + strings.ReplaceAll(escape(s), `"`, `\(dq`) + `"` }
