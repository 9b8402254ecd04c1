package detectors

import (
	"testing"
	"time"

	"freezeframe"
)

// stallOnly is a window in which only the stall is known.
type stallOnly struct {
	freezeframe.Window
	stall freezeframe.Stall
}

func (w stallOnly) Stall() freezeframe.Stall { return w.stall }

func secondStall() stallOnly {
	span := freezeframe.Span{Start: at(0), End: at(time.Second)}
	return stallOnly{stall: freezeframe.Stall{Span: span, Symptoms: []freezeframe.Symptom{{
		Probe: "answer", Span: span, Late: freezeframe.Union(span),
	}}}}
}

func claims(cause freezeframe.Cause, confidence float64, from, to time.Duration, subsumes ...freezeframe.Cause) freezeframe.Rule {
	return freezeframe.Rule{Cause: cause, Subsumes: subsumes, Judge: func(freezeframe.Window) []freezeframe.Finding {
		return []freezeframe.Finding{{Confidence: confidence, Explains: freezeframe.Union(freezeframe.Span{Start: at(from), End: at(to)})}}
	}}
}

func shares(v freezeframe.Verdict) (sum time.Duration) {
	for _, f := range v.Findings {
		sum += f.Explains.Length()
	}
	return sum + v.Unexplained.Length()
}

func TestJudgeSharesAddUpToTheStall(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{
		claims("a", 0.9, 0, 600*ms), claims("b", 0.8, 400*ms, 800*ms), claims("c", 0.9, -5*time.Second, 100*ms),
	})
	if got := shares(v); got != time.Second {
		t.Fatalf("shares add up to %v", got)
	}
	if v.Findings[0].Cause != "a" || v.Findings[1].Cause != "b" || len(v.Findings) != 2 {
		t.Fatalf("findings %+v", v.Findings)
	}
	if got := v.Findings[1].Explains.Length(); got != 200*ms {
		t.Errorf("the second explains %v, want only what the first does not", got)
	}
}

func TestDeeperCauseTakesItsSymptomsTime(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{
		claims("queue", 0.95, 0, time.Second), claims("lock", 0.9, 0, 900*ms, "queue"), claims("disk", 0.6, 0, 800*ms, "lock"),
	})
	if len(v.Findings) != 1 || v.Findings[0].Cause != "disk" {
		t.Fatalf("findings %+v, want the deepest alone", v.Findings)
	}
	if len(v.Symptoms) != 2 || v.Symptoms[0].SymptomOf == "" {
		t.Fatalf("symptoms %+v", v.Symptoms)
	}
}

func TestCauseElsewhereSuppressesNothing(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{claims("queue", 0.9, 0, time.Second), claims("disk", 0.9, 0, 50*ms, "queue")})
	if v.Findings[0].Cause != "queue" {
		t.Fatalf("findings %+v: a cause of 5 %% of the stall took all of it", v.Findings)
	}
}

func TestUncertainFindingsAreNotReported(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{claims("a", 0.2, 0, time.Second)})
	if len(v.Findings) != 0 || v.Unexplained.Length() != time.Second {
		t.Fatalf("verdict %+v, want nothing explained", v)
	}
}

func TestMutualSubsumptionSuppressesNeither(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{claims("a", 0.9, 0, time.Second, "b"), claims("b", 0.8, 0, time.Second, "a")})
	if len(v.Findings) != 1 || v.Findings[0].Cause != "a" {
		t.Fatalf("findings %+v", v.Findings)
	}
}

func TestOneFindingIsSaidOnce(t *testing.T) {
	rule := claims("pool", 0.9, 0, time.Second)
	once := rule.Judge
	rule.Judge = func(w freezeframe.Window) []freezeframe.Finding {
		out := append(once(w), once(w)...)
		other := once(w)[0]
		other.Culprit.PID = 8
		return append(out, other)
	}
	v := Judge(secondStall(), []freezeframe.Rule{rule})
	if len(v.Findings) != 1 || len(v.Symptoms) != 1 || v.Symptoms[0].Culprit.PID != 8 {
		t.Fatalf("%+v and beside it %+v, want the other culprit alone beside it", v.Findings, v.Symptoms)
	}
}

// What is all that is left to say takes nobody's time: whatever else fits is
// better.
func TestAGuessBringsNothingAbout(t *testing.T) {
	v := Judge(secondStall(), []freezeframe.Rule{claims("peer", 0.9, 0, 900*ms), claims("lock", 0.31, 0, time.Second, "peer")})
	if len(v.Findings) != 2 || v.Findings[0].Cause != "peer" || v.Findings[1].Explains.Length() != 100*ms {
		t.Errorf("findings %+v", v.Findings)
	}
}
