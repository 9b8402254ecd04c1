package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.length != 5*time.Minute || o.rates.processes != 20000 || o.rates.forks != 200 || o.rates.lines != 50000 ||
		o.rates.connections != 1000 || o.rates.killEvery != 10*time.Second || o.soak != 0 || o.resident != budgetRSS {
		t.Errorf("without flags: %+v", o)
	}
	o, err = parse(strings.Fields("-for 20s -calm 5s -only ^data -soak 1h -processes 10 -forks 5 -lines 7 -connections 9 -kill-every 3s -bin x -out y"), io.Discard)
	if err != nil || o.length != 20*time.Second || o.calm != 5*time.Second || !o.only.MatchString("data-full") || o.only.MatchString("no-data") ||
		o.soak != time.Hour || o.rates.processes != 10 || o.rates.forks != 5 || o.rates.lines != 7 || o.rates.connections != 9 || o.rates.killEvery != 3*time.Second ||
		o.bin != "x" || o.out != "y" {
		t.Errorf("%+v, %v", o, err)
	}
	for args, want := range map[string]string{
		"data-full":          `what is "data-full"`,
		"-only (":            "-only: ",
		"-for 1ms":           "-for wants at least 1s",
		"-calm 1s":           "-calm wants at least 5s",
		"-kill-every 1ms":    "-kill-every wants at least 1s",
		"-processes 0":       "-processes wants a number from 1 to",
		"-processes 9999999": "-processes wants a number from 1 to",
		"-forks -1":          "-forks wants a number from 1 to",
		"-resident 0":        "-resident wants a number above 0",
		"-lines 0":           "-lines wants a number from 1 to",
		"-connections 0":     "-connections wants a number from 1 to",
		"-soak 1m":           "-soak wants at least 4m0s",
		"-soak -1h":          "-soak wants at least 4m0s",
		"-for long":          "invalid value",
		"-nothing":           "not defined",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if _, err := parse([]string{"-help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help: %v", err)
	}
}

// Every condition can be listed, and says what it does or why it does not.
func TestConditions(t *testing.T) {
	var names []string
	for _, c := range conditions() {
		if c.name == "" || c.about == "" || slices.Contains(names, c.name) {
			t.Errorf("the name %q, about %q", c.name, c.about)
		}
		names = append(names, c.name)
		if c.make == nil && (c.needs == nil || c.needs(rates{}) == nil) {
			t.Errorf("%s does nothing, and does not say why", c.name)
		}
	}
	// What leaves no room for others is not made.
	if err := processes.needs(rates{processes: 1 << 22}); err == nil {
		t.Error("4 million processes can be had")
	}
	var b strings.Builder
	list(&b, options{rates: rates{processes: 1 << 22}})
	for _, want := range append(names, "cannot be made here: ") {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the list does not name %q:\n%s", want, b.String())
		}
	}
}
