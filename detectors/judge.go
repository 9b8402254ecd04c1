package detectors

import (
	"cmp"
	"slices"

	"freezeframe"
)

const (
	// minConfidence is the floor below which a finding is not reported.
	minConfidence = 0.3
	// minShare is the part of the stall that a cause must explain to be the
	// verdict: less is noise at its edges.
	minShare = 0.08
	// minBrings: what is merely all that is left to say brings nothing about.
	minBrings = 0.33
	// sameTime: of what a symptom claims, how much its cause must also claim.
	sameTime = 0.4
)

// Judge lets every rule claim its part of the stall and settles who has what:
// a cause that brings another about takes its time, the rest goes to the more
// certain and the larger claim. The result's findings are disjoint, so that
// their shares and the unexplained one add up to the stall.
func Judge(w freezeframe.Window, rules []freezeframe.Rule) freezeframe.Verdict {
	w = freezeframe.Remembering(w)
	stall := w.Stall()
	late := stall.Late()
	subsumes := map[freezeframe.Cause][]freezeframe.Cause{}
	var found []freezeframe.Finding
	for _, r := range rules {
		subsumes[r.Cause] = r.Subsumes
		for _, f := range r.Judge(w) {
			f.Cause = r.Cause
			f.Explains = f.Explains.And(late)
			if f.Confidence >= minConfidence && f.Explains.Length() > 0 {
				found = append(found, f)
			}
		}
	}
	var v freezeframe.Verdict
	found = slices.DeleteFunc(found, func(f freezeframe.Finding) bool {
		for i := range found {
			if above(subsumes, found[i].Cause, f.Cause) && broughtAbout(&found[i], &f, late) {
				f.SymptomOf = found[i].Cause
				v.Symptoms = append(v.Symptoms, f)
				return true
			}
		}
		return false
	})
	slices.SortStableFunc(found, func(a, b freezeframe.Finding) int {
		return cmp.Compare(score(&b, late), score(&a, late))
	})
	rest := late
	for _, f := range found {
		mine := f.Explains.And(rest)
		if mine.Length().Seconds() < minShare*late.Length().Seconds() {
			if !slices.ContainsFunc(v.Findings, func(said freezeframe.Finding) bool { return same(&said, &f) }) {
				v.Symptoms = append(v.Symptoms, f) // another explanation of the same time
			}
			continue
		}
		f.Explains = mine
		rest = rest.Minus(mine)
		v.Findings = append(v.Findings, f)
	}
	v.Unexplained = rest
	slices.SortStableFunc(v.Symptoms, func(a, b freezeframe.Finding) int {
		return cmp.Compare(score(&b, late), score(&a, late))
	})
	return v
}

// same tells whether two findings say the same of the same culprit: a rule that
// looks at each symptom finds it in each.
func same(a, b *freezeframe.Finding) bool {
	x, y := &a.Culprit, &b.Culprit
	return a.Cause == b.Cause && x.Kind == y.Kind && x.PID == y.PID && x.Cgroup == y.Cgroup &&
		x.Device == y.Device && x.Mount == y.Mount && x.Address == y.Address && x.Interface == y.Interface
}

// score ranks findings: how much of the stall they explain, and how surely.
func score(f *freezeframe.Finding, late freezeframe.Spans) float64 {
	if late.Length() == 0 {
		return f.Confidence
	}
	return f.Confidence * f.Explains.Length().Seconds() / late.Length().Seconds()
}

// broughtAbout tells whether a's time covers enough of b's for b to be its
// symptom. A cause that explains next to nothing brings nothing about.
func broughtAbout(a, b *freezeframe.Finding, late freezeframe.Spans) bool {
	if a.Explains.Length().Seconds() < minShare*late.Length().Seconds() || a.Confidence < minBrings {
		return false
	}
	return a.Explains.And(b.Explains).Length().Seconds() >= sameTime*b.Explains.Length().Seconds()
}

// above tells whether cause a subsumes b, directly or through others.
func above(subsumes map[freezeframe.Cause][]freezeframe.Cause, a, b freezeframe.Cause) bool {
	if a == b {
		return false
	}
	seen := map[freezeframe.Cause]bool{a: true}
	queue := []freezeframe.Cause{a}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		for _, c := range subsumes[next] {
			if c == b {
				// Two causes that subsume each other are equals.
				return !slices.Contains(subsumes[b], a)
			}
			if !seen[c] {
				seen[c] = true
				queue = append(queue, c)
			}
		}
	}
	return false
}
