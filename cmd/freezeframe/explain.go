package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/detectors/rules"
	"freezeframe/internal/nearest"
	"freezeframe/reports"
)

func (a *app) explain() *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CAUSE]",
		Short: "Say what a cause means, what proves it, and what to do",
		Long: `Say what a cause means, what proves it, and what to do about it. Without a
cause it lists all that this version can name.`,
		Example: "  freezeframe explain fs.frozen",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("explain takes one cause, got %d", len(args))}
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return causes(explainable()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			all := explainable()
			if len(args) == 0 {
				return listCauses(a.stdout, all)
			}
			for i := range all {
				if string(all[i].Cause) == args[0] {
					return reports.ExplainText(a.stdout, all[i], textOptions(a.stdout))
				}
			}
			return usageError{unknownCause(args[0], causes(all))}
		},
	}
}

// completeCause has a shell offer the causes for a flag.
func (a *app) completeCause(c *cobra.Command, flag string) {
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return causes(explainable()), cobra.ShellCompDirectiveNoFileComp
	}
	if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // there is no such flag
	}
}

// explainable is every rule, and the two answers that no rule gives.
func explainable() []freezeframe.Rule {
	all := slices.Clone(rules.All())
	slices.SortFunc(all, func(a, b freezeframe.Rule) int { return strings.Compare(string(a.Cause), string(b.Cause)) })
	return append(all,
		freezeframe.Rule{
			Cause: freezeframe.CauseUnknown, Title: "an unknown cause",
			Means: "Something stalled, and no rule of this version explains enough of it. A share that nothing explains is said with every other verdict too.",
			Proof: "Nothing proves it: it is what is left. The report says what was late, where the time of those who waited went, and what this machine did not let freezeframe see.",
			Remedy: []string{
				"Read the timeline and the ledger: they name the kernel function and the system call that the victims were in.",
				"Run freezeframe as root, and see freezeframe check for what could not be seen and how to get it.",
				"Keep the .frz file (diagnose --out): a later version judges it again with freezeframe view.",
			},
		},
		freezeframe.Rule{
			Cause: freezeframe.CauseHealthy, Title: "nothing stalled",
			Means: "None of the probes and none of the services that were watched was late in the time that was watched. It says nothing about what was not watched; the coverage lists both.",
			Proof: "The list of probes, services and sources in the coverage.",
		})
}

func knows(all []freezeframe.Rule, name string) bool {
	return slices.ContainsFunc(all, func(r freezeframe.Rule) bool { return string(r.Cause) == name })
}

func causes(all []freezeframe.Rule) []string {
	var names []string
	for i := range all {
		names = append(names, string(all[i].Cause))
	}
	return names
}

// unknownCause suggests the nearest id, by the whole of it or by what follows
// the dot.
func unknownCause(name string, known []string) error {
	close := nearest.To(name, known)
	if close == "" {
		var same []string
		for _, k := range known {
			if _, last, ok := strings.Cut(k, "."); ok && (strings.Contains(last, name) || nearest.To(name, []string{last}) != "") {
				same = append(same, k)
			}
		}
		close = strings.Join(same[:min(len(same), 4)], ", ")
	}
	if close == "" || name == "" {
		return fmt.Errorf("there is no cause %q: freezeframe explain lists them all", name)
	}
	return fmt.Errorf("there is no cause %q: did you mean %s?", name, close)
}

func listCauses(w io.Writer, all []freezeframe.Rule) error {
	var b strings.Builder
	for i := range all {
		fmt.Fprintf(&b, "%-28s %s\n", all[i].Cause, all[i].Title)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
